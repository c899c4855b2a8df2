"""Judges read a reply and say which emotion it shows; see `base` for what they have in common.

`LexiconJudge` needs nothing; the others import torch, transformers or openai when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from emotion_circuits.evaluation.judges.base import NEUTRAL, Judge, Score
from emotion_circuits.evaluation.judges.lexicon import LexiconJudge

if TYPE_CHECKING:
    from emotion_circuits.evaluation.judges.agreement import (
        Kappa,
        cohen_kappa,
        confusion,
        read_labelling_sheet,
        write_labelling_sheet,
    )
    from emotion_circuits.evaluation.judges.classifier import ClassifierJudge
    from emotion_circuits.evaluation.judges.llm import LLMJudge
    from emotion_circuits.evaluation.judges.self_judge import SelfJudge

LAZY = {
    "ClassifierJudge": "classifier",
    "LLMJudge": "llm",
    "SelfJudge": "self_judge",
    "Kappa": "agreement",
    "cohen_kappa": "agreement",
    "confusion": "agreement",
    "read_labelling_sheet": "agreement",
    "write_labelling_sheet": "agreement",
}

__all__ = [
    "NEUTRAL",
    "ClassifierJudge",
    "Judge",
    "Kappa",
    "LLMJudge",
    "LexiconJudge",
    "Score",
    "SelfJudge",
    "cohen_kappa",
    "confusion",
    "read_labelling_sheet",
    "write_labelling_sheet",
]


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{LAZY[name]}"), name)
