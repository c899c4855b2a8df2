"""Captions for papers: what a figure of a result shows, with the settings from its provenance, ready for LaTeX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emotion_circuits.attribution.influence import Influence
from emotion_circuits.attribution.result import Attribution
from emotion_circuits.circuits.circuit import Circuit
from emotion_circuits.circuits.stability import Stability
from emotion_circuits.control.doses import Calibration
from emotion_circuits.directions.result import EmotionDirections
from emotion_circuits.errors import DataError
from emotion_circuits.evaluation.comparison import Comparison
from emotion_circuits.evaluation.pareto import TradeOff
from emotion_circuits.tracing import Trace

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def caption(result: Any) -> str:
    r"""A LaTeX ``\caption{...}`` for a figure of ``result``.

    Args:
        result: directions, an attribution, influence, a circuit, its stability, a calibration, a comparison, a
            trade-off, a trace, or a mapping of circuits.

    Raises:
        DataError: it is something else.
    """
    circuits = list(result.values()) if isinstance(result, Mapping) else []
    if circuits and all(isinstance(c, Circuit) for c in circuits):
        sizes = sorted({len(c.nodes) for c in circuits})
        size = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        what, held = f"Overlap of the circuits of {_list(result)} ({size} nodes each).", circuits[0].provenance
    else:
        described = _DESCRIBE.get(type(result))
        if described is None:
            raise DataError(
                f"no caption for {type(result).__name__}; give directions, an attribution, influence, a circuit, its "
                "stability, a calibration, a comparison, a trade-off or a trace"
            )
        what, held = described(result), getattr(result, "provenance", {})
    return rf"\caption{{{' '.join([what, *_settings(held)])}}}"


def latex(text: object) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(_SPECIAL.get(character, character) for character in str(text))


def _list(names: Any) -> str:
    names = [latex(name) for name in names]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _directions(result: EmotionDirections) -> str:
    stable = result.stable_layers()
    return (
        f"Directions of {_list(result.emotions)} from {result.n_groups} complete groups; mean split-half cosine "
        f"{float(result.split_half.mean()):.3f}; stable layers {stable[0]} to {stable[-1]}."
    )


def _attribution(result: Attribution) -> str:
    kinds = _list(f"{kind}s" for kind in result.kinds)
    text = f"Scores of {kinds} for {latex(result.emotion or 'the target')} by {latex(result.method)}, mean over "
    text += f"{result.n_samples} samples"
    if "neuron" not in result.kinds:
        return text + "."
    spread = result.concentration()
    return f"{text}. The top 1\\% of neurons hold {100 * spread.top_1_percent:.1f}\\% of the positive score (Gini " + (
        f"{spread.gini:.2f})."
    )


def _influence(result: Influence) -> str:
    strengths = ", ".join(f"{s:g}" for s in result.strengths)
    return (
        f"Influence of every sublayer on {_list(result.emotions)}: change of the final residual along the reference "
        f"vector per unit of push, mean over {result.n_samples} prompts and strengths {strengths} (in units of the "
        "residual's root mean square)."
    )


def _circuit(result: Circuit) -> str:
    return (
        f"The circuit of {latex(result.emotion)}: {result.nodes.n_neurons} neurons and {result.nodes.n_heads} heads, "
        f"{100 * result.share:.2f}\\% of the model's nodes. Squares are attention heads, circles MLP neurons; area is "
        "proportional to the score."
    )


def _comparison(result: Comparison) -> str:
    first = next(iter(result.evaluations.values()))
    items = len({reply.prompt.group for reply in first.replies})
    return (
        f"Share of replies that express the emotion aimed at, by {_list(result.evaluations)}, with 95\\% Wilson "
        f"intervals; {items} items under each of {len(first.replies.emotions)} emotions, judged by "
        f"{latex(first.judge)} (question: {latex(first.question)})."
    )


def _stability(result: Stability) -> str:
    return (
        f"Share of {result.n_draws} resamples of {result.n_scenarios} scenarios in which each node of the circuit is "
        f"chosen again; circuits of two halves share {100 * result.halves:.0f}\\% of their nodes (Jaccard)."
    )


def _calibration(result: Calibration) -> str:
    bounds = result.bounds
    return (
        f"Accuracy and perplexity over strength for {_list(result.chosen)}, on the validation items "
        f"({len(result.points)} points). Open: too weak; filled: controlled; crosses: degenerate; rings: chosen. "
        f"Bounds: accuracy {100 * bounds.accuracy:.0f}\\%, {bounds.perplexity_ratio:g} times the prompted replies' "
        "perplexity."
    )


def _trade_off(result: TradeOff) -> str:
    methods = list(dict.fromkeys(point.method for point in result.points))
    return (
        f"Accuracy with 95\\% Wilson intervals against perplexity, as a multiple of that of {latex(result.reference)}, "
        f"for {_list(methods)} at {len(result.points)} points. Rings: no other point beats them."
    )


def _trace(result: Trace) -> str:
    return (
        f"Projection of the residuals of {len(result)} tokens on the directions of {_list(result.emotions)}, at "
        f"{latex(result.site)} of {len(result.projections)} layers."
    )


_DESCRIBE: dict[type, Any] = {
    EmotionDirections: _directions, Attribution: _attribution, Influence: _influence, Circuit: _circuit,
    Comparison: _comparison, Stability: _stability, Calibration: _calibration, TradeOff: _trade_off, Trace: _trace,
}  # fmt: skip


def _settings(held: Mapping[str, Any]) -> list[str]:
    """Sentences from a provenance: the model, the data, the settings."""
    sentences = []
    if "model" in held:
        revision = f", revision {latex(str(held['revision'])[:12])}" if held.get("revision") else ""
        precision = f", {latex(held['dtype'])}" if held.get("dtype") else ""
        sentences.append(f"Model: {latex(held['model'])}{revision}{precision}.")
    if "n_prompts" in held:
        digest = f" (SHA-256 {latex(str(held.get('prompts_sha256', ''))[:8])})" if held.get("prompts_sha256") else ""
        sentences.append(f"Data: {held['n_prompts']} prompts{digest}.")
    settings = {**held.get("settings", {}), **held.get("builder", {})}
    if settings:
        listed = "; ".join(f"{latex(k.replace('_', ' '))} {latex(_value(v))}" for k, v in settings.items())
        sentences.append(f"Settings: {listed}.")
    return sentences


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_value(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
