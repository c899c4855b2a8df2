r"""Cross-language agreement: do instructions in two languages find the same directions?

For each two languages, with directions v and w of the same model, averaged over the sublayers of the stable layers:

1. agreement of emotion e: :math:`\cos(v_e, w_e)`;
2. its noise ceiling: :math:`\sqrt{r_v r_w}`, r being the reliability by split halves. Two measurements of the very
   same direction would agree that far, so agreement over ceiling is the agreement without noise;
3. p: the share of pairings of the one language's emotions with the other's whose mean agreement is as high as that of
   equal labels. It asks whether *which* emotion is meant carries over, and not merely that instructions look alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.affect.permutations import orders, p_value
from emotion_circuits.directions.quality import reliability
from emotion_circuits.directions.result import EmotionDirections
from emotion_circuits.errors import EmotionError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class LanguageAgreement:
    """Agreement of directions between languages.

    Attributes:
        emotions: the labels, in one order for all languages.
        pairs: the pairs of languages.
        cosines: of every emotion of the one language with every emotion of the other.
        ceilings: noise ceiling of each emotion.
        p: of each pair of languages.
        flags: by language, the flagged emotions and why.
    """

    emotions: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    cosines: Float[Tensor, "pair emotion emotion"]
    ceilings: Float[Tensor, "pair emotion"]
    p: tuple[float, ...]
    flags: Mapping[str, Mapping[str, tuple[str, ...]]]

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and emotion: ``a, b, emotion, cosine, ceiling, corrected, others, p, flagged``.

        ``corrected`` is cosine over ceiling, NaN where noise leaves nothing to see; ``others`` the mean cosine with
        the other language's other emotions; ``p`` belongs to the pair.
        """
        import pandas as pd

        n = len(self.emotions)
        rows = []
        for i, (a, b) in enumerate(self.pairs):
            for e, emotion in enumerate(self.emotions):
                cosine, ceiling = float(self.cosines[i, e, e]), float(self.ceilings[i, e])
                rows.append({
                    "a": a, "b": b, "emotion": emotion, "cosine": cosine, "ceiling": ceiling,
                    "corrected": min(1.0, cosine / ceiling) if ceiling > 0 else float("nan"),
                    "others": float(self.cosines[i, e].sum() - cosine) / max(1, n - 1), "p": self.p[i],
                    "flagged": emotion in self.flags[a] or emotion in self.flags[b],
                })  # fmt: skip
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        parts = [
            f"{a}-{b} {float(self.cosines[i].diagonal().mean()):.2f} of {float(self.ceilings[i].mean()):.2f} "
            f"(p = {self.p[i]:.3f})" for i, (a, b) in enumerate(self.pairs)
        ]  # fmt: skip
        flagged = [f"{e} in {language}" for language, held in self.flags.items() for e in held]
        note = f"; FLAGGED: {', '.join(flagged)}" if flagged else ""
        return f"LanguageAgreement({len(self.emotions)} emotions; cosine of ceiling: {', '.join(parts)}{note})"


def language_agreement(
    directions: Mapping[str, EmotionDirections], *, layers: list[int] | None = None, seed: int = 0
) -> LanguageAgreement:
    """Compare directions of one model that were elicited in several languages.

    Args:
        directions: by language, of the same labels.
        layers: to average over; those that are stable in the first language by default.
        seed: of random pairings, where there are too many to try all.

    Raises:
        EmotionError: fewer than two languages, other labels, or another model's shape.
    """
    if len(directions) < 2:
        raise EmotionError(f"agreement needs directions in two languages, got {', '.join(directions) or 'none'}")
    first = next(iter(directions.values()))
    for language, held in directions.items():
        if set(held.emotions) != set(first.emotions) or held.vectors.shape != first.vectors.shape:
            raise EmotionError(
                f"directions in {language!r} have {', '.join(held.emotions)} and shape {tuple(held.vectors.shape)}, "
                f"but {', '.join(first.emotions)} and {tuple(first.vectors.shape)} were expected; fit both on one model"
            )
    chosen = layers or first.stable_layers()
    vectors = {language: _in_order(held.vectors, held, first, chosen) for language, held in directions.items()}
    noise = {
        language: reliability(_in_order(held.split_half, held, first, chosen)).clamp(min=0)
        for language, held in directions.items()
    }
    pairs = tuple(combinations(directions, 2))
    cosines = torch.stack([torch.einsum("slfd,sled->slfe", vectors[a], vectors[b]).mean(dim=(0, 1)) for a, b in pairs])
    return LanguageAgreement(
        first.emotions,
        pairs,
        cosines,
        torch.stack([(noise[a] * noise[b]).sqrt() for a, b in pairs]),
        tuple(_p(matrix, seed) for matrix in cosines),
        {language: held.quality.flagged for language, held in directions.items()},
    )


def _in_order(
    values: Tensor, held: EmotionDirections, first: EmotionDirections, layers: list[int]
) -> Float[Tensor, "2 layer emotion *d_model"]:
    places = [held.index(emotion) for emotion in first.emotions]
    return values[:, layers][:, :, places].double()


def _p(cosines: Float[Tensor, "emotion emotion"], seed: int) -> float:
    tried = orders(len(cosines), seed=seed)
    return p_value(cosines[torch.arange(len(cosines)), tried].mean(dim=1))
