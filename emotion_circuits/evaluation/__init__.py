"""Evaluation: judges, accuracy with intervals, fluency, and comparisons of methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

# Lazy, because judges are used without a model: reading them must not load torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    submod_attrs={
        "accuracy": ["Evaluation", "evaluate"],
        "comparison": ["Comparison", "compare"],
        "language": ["in_language"],
        "running": ["run_method"],
        "side_effects": ["SideEffects", "SideEffectTest"],
        "text_quality": ["Fluency", "fluency", "perplexity"],
        "pareto": ["TradeOff", "TradePoint", "trade_off"],
    },
)

if TYPE_CHECKING:
    from emotion_circuits.evaluation.accuracy import Evaluation, evaluate
    from emotion_circuits.evaluation.comparison import Comparison, compare
    from emotion_circuits.evaluation.language import in_language
    from emotion_circuits.evaluation.pareto import TradeOff, TradePoint, trade_off
    from emotion_circuits.evaluation.running import run_method
    from emotion_circuits.evaluation.side_effects import SideEffects, SideEffectTest
    from emotion_circuits.evaluation.text_quality import Fluency, fluency, perplexity
