"""`EmotionDirections`: unit directions of every emotion at every sublayer, and how far to trust them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits import artefacts
from emotion_circuits.checked import build
from emotion_circuits.data.prompts import check_emotions
from emotion_circuits.directions.quality import DirectionQuality, QualityTest, split_half_test
from emotion_circuits.errors import ArtefactError, NodeError
from emotion_circuits.targets import DirectionTarget
from emotion_circuits.types import Site, as_site

if TYPE_CHECKING:
    import pandas as pd

RESIDUAL_SITES: tuple[Site, Site] = ("resid_mid", "resid_post")


@dataclass(frozen=True, eq=False)
class EmotionDirections:
    """Context-agnostic emotion directions (method.md, stage 2; paper, section 3).

    The first axis of every tensor is the sublayer's site: 0 is ``resid_mid`` (after attention), 1 is ``resid_post``.

    Attributes:
        emotions: order of the emotion axis.
        vectors: unit directions.
        norms: length of each difference before it was scaled to 1, in units of the residual.
        sigma: mean rms of the residual.
        n_groups: complete groups that the directions are averages of.
        split_half: mean cosine between directions from random halves of the groups.
        variance_group: share of variance between groups.
        variance_emotion: share of variance between emotions.
        provenance: model, data and settings.
        tests: quality tests beside that of split halves; `check_directions` adds them.
    """

    emotions: tuple[str, ...]
    vectors: Float[Tensor, "2 layer emotion d_model"]
    norms: Float[Tensor, "2 layer emotion"]
    sigma: Float[Tensor, "2 layer"]
    n_groups: int
    split_half: Float[Tensor, "2 layer emotion"]
    variance_group: Float[Tensor, "2 layer"]
    variance_emotion: Float[Tensor, "2 layer"]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    tests: tuple[QualityTest, ...] = ()

    @property
    def quality(self) -> DirectionQuality:
        """How far to trust each direction; what fails here is flagged in every result made with it."""
        halves = split_half_test(self.split_half[:, self.stable_layers()])
        return DirectionQuality(self.emotions, (halves,)).updated(self.tests)

    def tested(self, *tests: QualityTest) -> EmotionDirections:
        """The same directions with more tests of their quality."""
        return replace(self, tests=(*self.tests, *tests))

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self.vectors.shape[1]

    def index(self, emotion: str) -> int:
        """Place of an emotion on the emotion axis."""
        check_emotions([emotion], self.emotions, "these directions")
        return self.emotions.index(emotion)

    def of(self, emotion: str, site: Site | str = "resid_post") -> Float[Tensor, "layer d_model"]:
        """One emotion's unit direction at every layer.

        Raises:
            EmotionError: the emotion is not among these.
        """
        return self.vectors[_slot(site), :, self.index(emotion)]

    def stable_layers(self, threshold: float = 0.9) -> list[int]:
        """The longest run of layers inside which adjacent sublayers' directions agree (method.md, stage 6).

        Adjacent means attention to MLP within a layer, and MLP to the next attention; their cosine is averaged over
        emotions. When no two layers agree above ``threshold``, the run is the layer whose two sublayers agree best.
        """
        within = (self.vectors[0] * self.vectors[1]).sum(-1).mean(-1)
        between = (self.vectors[1, :-1] * self.vectors[0, 1:]).sum(-1).mean(-1)
        best: list[int] = [int(within.argmax())]
        run: list[int] = []
        for layer in range(self.n_layers):
            joined = bool(run) and bool(between[layer - 1] >= threshold)
            run = ([*run, layer] if joined else [layer]) if within[layer] >= threshold else []
            best = run if len(run) > len(best) else best
        return best

    def reference(self, emotion: str, layers: list[int] | None = None) -> Float[Tensor, " d_model"]:
        """The reference vector: mean of the sign-aligned unit directions over the stable layers, of unit length.

        Args:
            emotion: the emotion.
            layers: layers to average over; the stable ones by default.
        """
        chosen = self.vectors[:, layers or self.stable_layers(), self.index(emotion)].flatten(0, 1)
        signs = torch.where(chosen @ chosen[-1] < 0, -1.0, 1.0).to(chosen.dtype)
        return torch.nn.functional.normalize((signs[:, None] * chosen).mean(dim=0), dim=0)

    def target(self, emotion: str) -> DirectionTarget:
        """What attribution explains: how far the residual points along this emotion's direction."""
        return DirectionTarget(
            emotion,
            self.of(emotion, "resid_mid"),
            self.of(emotion, "resid_post"),
            self.reference(emotion),
            self.quality.flags(emotion),
        )

    def targets(self) -> dict[str, DirectionTarget]:
        """Every emotion's target."""
        return {emotion: self.target(emotion) for emotion in self.emotions}

    def similarity(self, emotion: str) -> Float[Tensor, "sublayer sublayer"]:
        """Cosines of one emotion's directions between all sublayers: attention 0, MLP 0, attention 1, ..."""
        flat = self.vectors[:, :, self.index(emotion)].transpose(0, 1).flatten(0, 1)
        return flat @ flat.T

    def between_emotions(self, layer: int, site: Site | str = "resid_post") -> Float[Tensor, "emotion emotion"]:
        """Cosines between emotions at one sublayer."""
        held = self.vectors[_slot(site), layer]
        return held @ held.T

    def to_frame(self) -> pd.DataFrame:
        """One row per sublayer and emotion: ``layer, sublayer, emotion, norm, split_half``."""
        import pandas as pd

        rows = [
            {
                "layer": layer, "sublayer": ("attention", "mlp")[s], "emotion": emotion,
                "norm": float(self.norms[s, layer, e]), "split_half": float(self.split_half[s, layer, e]),
            }
            for layer in range(self.n_layers) for s in (0, 1) for e, emotion in enumerate(self.emotions)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def save(self, path: str | Path) -> None:
        """Write one file, tensors and provenance."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        meta = {
            "emotions": self.emotions, "n_groups": self.n_groups, "provenance": dict(self.provenance),
            "tests": [asdict(test) for test in self.tests],
        }  # fmt: skip
        artefacts.save(path, "directions", tensors, meta)

    @classmethod
    def load(cls, path: str | Path) -> EmotionDirections:
        """Read what `save` wrote.

        Raises:
            ArtefactError: the file is damaged or something else.
        """
        tensors, meta = artefacts.load(path, "directions")
        emotions, n_groups, provenance = (
            artefacts.field(meta, k, path) for k in ("emotions", "n_groups", "provenance")
        )
        held = {name: artefacts.field(tensors, name, path) for name in _TENSORS}
        tests = meta.get("tests", [])  # files of earlier versions hold none
        if not isinstance(emotions, list) or not isinstance(tests, list):
            raise ArtefactError(f"{path} is damaged: its emotions or tests are no list")
        held |= {"emotions": emotions, "n_groups": n_groups, "provenance": provenance}
        held["tests"] = [build(QualityTest, path, test) for test in tests]
        return build(cls, path, held, emotion=len(emotions))

    def __repr__(self) -> str:
        reliable = float(self.split_half.mean())
        flagged = ", ".join(self.quality.flagged)
        return (
            f"EmotionDirections({', '.join(self.emotions)}; {self.n_layers} layers, {self.n_groups} groups, "
            f"mean split-half cosine {reliable:.3f}{f'; FLAGGED: {flagged}' if flagged else ''})"
        )


_TENSORS = ("vectors", "norms", "sigma", "split_half", "variance_group", "variance_emotion")


def _slot(site: Site | str) -> int:
    name = as_site(site)
    if name not in RESIDUAL_SITES:
        raise NodeError(f"directions exist at {' and '.join(RESIDUAL_SITES)}, not at {site!r}")
    return RESIDUAL_SITES.index(name)
