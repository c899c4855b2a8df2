"""Planted models: small Qwen2 whose emotion circuit is known, since their weights were written and not trained.

1. `language`   a language of some sixty words, and scenarios in it.
2. `features`   the directions that are read and written, under a random rotation.
3. `heads`      heads that carry the instruction's emotion to the newest token, and heads that look like it.
4. `neurons`    neurons that write the emotion, directly or over a relay, and neurons that look like it.
5. `build`      all of it in one model, with the true nodes and edges.

``planted(PlantedConfig(noise=0.1))`` gives a `PlantedModel`; the whole pipeline runs on its ``model`` and ``data``.
"""

from emotion_circuits.planted.build import PlantedModel, planted
from emotion_circuits.planted.config import PlantedConfig

__all__ = ["PlantedConfig", "PlantedModel", "planted"]
