"""The parity check: is the wrapper provably the model?

1. The bare Hugging Face model runs a few prompts of very different length, one at a time.
2. Every probe (`emotion_circuits.model.probes`) compares something with that: the twin, hooks, padding, the cache,
   and whether what the nodes write sums to what the sublayers wrote.
3. A figure above the tolerance of the model's dtype fails; so does a probe that cannot run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from emotion_circuits.data.prompts import Prompt
from emotion_circuits.model import probes
from emotion_circuits.model.probes import Probe
from emotion_circuits.model.trial import Trial

if TYPE_CHECKING:
    import pandas as pd

    from emotion_circuits.model.hooked_model import HookedModel

TOLERANCE: dict[torch.dtype, float] = {
    torch.float64: 3e-7, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2,
}  # fmt: skip
"""Largest relative difference that is rounding, for what happens inside one sublayer. Hugging Face computes norms,
rotary angles and softmax in float32, which is what limits float64."""

OWN_ROUNDING, MOST = 3.0, 10.0
"""Where roundings of all layers add up, as many times the model's own rounding (`Trial.rounding`) are allowed, but at
most so many times the tolerance above. In float32 the tolerance above is enough."""

PROMPTS = (
    "Hello.",
    "Yesterday I found an old letter in the kitchen drawer and read it twice before the bus came.",
    "Please read on. " + "The shop on the corner opens at nine, and on most days somebody waits there. " * 6,
)
"""Short, middling and long, so that padding and sliding windows are put to the test."""

Scope = Literal["exact", "sublayer", "model"]
"""What may round: nothing, one sublayer, or all layers one after the other."""

CHECKS: tuple[tuple[str, Probe, Scope], ...] = (
    ("logits: TransformerLens twin", probes.twin_logits, "model"),
    ("logits: with hooks on every site", probes.hooked_logits, "exact"),
    ("activations: TransformerLens twin", probes.twin_sites, "model"),
    ("residual after = before + written", probes.residual_sums, "sublayer"),
    ("sum of heads = attention output", probes.head_sums, "sublayer"),
    ("sum of neurons = MLP output", probes.neuron_sums, "sublayer"),
    ("widths of hooks and writes", probes.widths, "exact"),
    ("left-padded batch = alone", probes.padded, "model"),
    ("cached = uncached", probes.cached, "model"),
    ("greedy tokens = Hugging Face's", probes.greedy, "model"),
    ("patch on model.hf = on model.tl", probes.patches_on_both, "model"),
    ("suffix pass = hook", probes.suffix_passes, "model"),
    ("twin shares the weights", probes.shared_weights, "exact"),
    ("hooks removed, logits unchanged", probes.hooks_removed, "exact"),
)
"""Name, probe, and what may round. The last one looks for what the others left behind."""


@dataclass(frozen=True)
class Finding:
    """One row of the report.

    Attributes:
        check: what was tested.
        passed: None where the architecture has nothing to test.
        worst: the largest figure: relative to the token's largest value, or 1 for what is plainly not so.
        tolerance: what it may be.
        where: layer, site and prompt of the largest figure, or why the check could not run.
    """

    check: str
    passed: bool | None
    worst: float
    tolerance: float
    where: str


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Attributes:
        model: the model's name.
        dtype: of its weights.
        findings: one per check.
        seconds: how long it took.
    """

    model: str
    dtype: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(finding.passed is not False for finding in self.findings)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(finding.check for finding in self.findings if finding.passed is False)

    def to_frame(self) -> pd.DataFrame:
        """One row per check: ``check, passed, worst, tolerance, where``."""
        import pandas as pd

        return pd.DataFrame([vars(finding) for finding in self.findings])

    def __str__(self) -> str:
        lines = [f"{self.model} ({self.dtype}), {self.seconds:.1f} s"]
        for f in self.findings:
            verdict = {True: "pass", False: "FAIL", None: "none"}[f.passed]
            lines.append(f"  {verdict}  {f.check:34} {f.worst:9.2e}  (at most {f.tolerance:.0e})  {f.where}")
        lines.append("all passed" if self.ok else f"{len(self.failed)} failed: {'; '.join(self.failed)}")
        return "\n".join(lines)


@torch.no_grad()
def check(model: HookedModel, prompts: object = None) -> CheckReport:
    """Test on this very model that hooks, writes and batches are what they are taken for.

    Args:
        model: the model; any dtype and device that can run it.
        prompts: to test on; a few of very different length by default.

    Returns:
        Every check with its worst figure and where that was.

    Example:
        >>> import emotion_circuits as ec
        >>> ec.HookedModel.demo().check().ok
        True
    """
    start = time.perf_counter()
    trial = Trial(model, _sequences(model, prompts))
    findings = tuple(_finding(trial, *check) for check in CHECKS)
    dtype = str(model.dtype).removeprefix("torch.")
    return CheckReport(model.name, dtype, findings, time.perf_counter() - start)


def _finding(trial: Trial, name: str, probe: Probe, scope: Scope) -> Finding:
    tolerance = {"exact": 0.0, "sublayer": TOLERANCE[trial.model.dtype], "model": _through_all_layers(trial)}[scope]
    try:
        worst, where = max(probe(trial), key=lambda figure: figure[0], default=(None, ""))
    except Exception as error:  # whatever stops a probe is a finding, not a crash
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Finding(name, False, float("nan"), tolerance, f"{type(error).__name__}: {text[:200]}")
    if worst is None:
        return Finding(name, None, 0.0, tolerance, "not in this architecture")
    where += "" if worst < float("inf") else ": not a number"
    return Finding(name, worst <= tolerance, worst, tolerance, where)


def _through_all_layers(trial: Trial) -> float:
    fixed = TOLERANCE[trial.model.dtype]
    return fixed if trial.model.dtype == torch.float32 else min(max(fixed, OWN_ROUNDING * trial.rounding), MOST * fixed)


def _sequences(model: HookedModel, prompts: object) -> list[list[int]]:
    room = (model.context or 4096) - probes.NEW_TOKENS
    sequences = model.tokens(prompts) if prompts is not None else _default_sequences(model)
    return [sequence[-room:] for sequence in sequences]


def _default_sequences(model: HookedModel) -> list[list[int]]:
    if model.tokenizer is not None:
        wrap = Prompt.user if model.tokenizer.chat_template else Prompt.raw
        sequences = model.tokens([wrap(text) for text in PROMPTS])
        if len({token for sequence in sequences for token in sequence}) >= 8:
            return sequences
    # No tokenizer, or one that hardly knows these words: then any tokens will do.
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(model.dims.d_vocab, (n,), generator=generator).tolist() for n in (3, 20, 90)]
