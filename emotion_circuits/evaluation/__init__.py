"""Evaluation: judges, accuracy with intervals, fluency, and comparisons of methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

# Lazy, because judges are used without a model: reading them must not load torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    submod_attrs={
        "accuracy": ["Evaluation", "evaluate"],
        "comparison": ["Comparison", "compare", "run_method"],
        "text_quality": ["Fluency", "fluency", "perplexity"],
    },
)

if TYPE_CHECKING:
    from emotion_circuits.evaluation.accuracy import Evaluation, evaluate
    from emotion_circuits.evaluation.comparison import Comparison, compare, run_method
    from emotion_circuits.evaluation.text_quality import Fluency, fluency, perplexity
