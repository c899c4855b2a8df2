"""Build a model whose circuit is known, and see how much of it a method finds."""

import emotion_circuits as ec
from emotion_circuits.planted import PlantedConfig, planted

truth = planted(PlantedConfig(layers=4, noise=0.05, scenario_strength=1.0))
directions = ec.fit_directions(truth.model, truth.prompts())
targets = directions.targets()
scores = ec.attribute_each(truth.model, truth.prompts(), targets, ec.DirectAttribution(centred=True))

for emotion, attribution in scores.items():
    true = truth.truth_of[emotion].only("neuron")
    found = attribution.top(len(true), "neuron")
    print(f"{emotion:10} {len(found & true)} of {len(true)} true neurons found")
