"""What the front end and the explorer tell each other, as plain JSON.

The front end is one JavaScript module, ``static/explorer.js``. It is given `about` once and the parts of `show` after
every message; it sends messages, which `answer` carries out:

``choose``  any of ``emotion``, ``prompt`` (a number or a text) and ``strength``
``look``    ``node``, whose facts are to be shown, or null
``add``, ``remove``  ``node``
``reset``   the circuit as it was found
``save``    ``name`` of the file, without a folder or an ending

A message's ``id`` comes back in the status, with what was done or what went wrong. Texts go out as they are: the front
end never reads them as markup.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import EmotionCircuitsError
from emotion_circuits.explorer.edits import saved_file
from emotion_circuits.nodes import NodeSet
from emotion_circuits.plots.themes import DARK, LIGHT, in_palette, label_looks, style_of

if TYPE_CHECKING:
    import pandas as pd

    from emotion_circuits.explorer.change import ReplyChange
    from emotion_circuits.explorer.explorer import Explorer
    from emotion_circuits.explorer.facts import NodeFacts
    from emotion_circuits.measurement import Measurement

Parts = dict[str, Any]
PARTS = ("view", "circuit", "reply", "node")
"""What `show` gives."""

N_SAMPLES, N_TOKENS = 6, 8
"""Prompts and tokens that are shown of a node."""

_NAME = re.compile(r"[\w-][\w. -]{0,63}")
_log = logging.getLogger(__name__)


def about(explorer: Explorer) -> Parts:
    """What never changes: the model, the emotions and their colours, the prompts."""
    dims, emotions = explorer.model.dims, explorer.run.emotions
    with label_looks(explorer.run.settings.labels):
        looks = {e: style_of(e).colour for e in emotions}
    return {
        "model": explorer.model.name, "folder": str(explorer.run.folder.path), "n_layers": dims.n_layers,
        "n_heads": dims.n_heads, "d_mlp": dims.d_mlp, "emotions": list(emotions),
        "prompts": [item.text for item in explorer.items],
        "colours": {name: _colours(palette, looks) for name, palette in (("light", LIGHT), ("dark", DARK))},
    }  # fmt: skip


def show(explorer: Explorer) -> Parts:
    """What is looked at and what is seen, see `PARTS`."""
    return {
        "view": _view(explorer), "circuit": _circuit(explorer), "reply": _reply(explorer.reply),
        "node": _node(explorer),
    }  # fmt: skip


def answer(explorer: Explorer, message: object) -> Parts:
    """Carry a message out: `show` and the status afterwards, whatever the message was."""
    identity, said, error = None, "", ""
    try:
        if not isinstance(message, Mapping):
            raise EmotionCircuitsError("a message must be a JSON object")
        identity = message.get("id")
        said = _act(explorer, message)
    except EmotionCircuitsError as problem:
        error = str(problem)
    except Exception as problem:
        # Without an answer the front end would wait for ever.
        _log.exception("a message to the explorer failed")
        error = f"{type(problem).__name__}: {problem}"
    return show(explorer) | {"status": {"id": identity, "said": said, "error": error}}


def _act(explorer: Explorer, message: Mapping[str, Any]) -> str:
    """Do what the message asks for; returns what was done, in words, where it is not plain to see."""
    match message:
        case {"do": "choose", **given}:
            explorer.choose(**_choices(given))
        case {"do": "look", "node": str() | None as node}:
            explorer.look_at(node)
        case {"do": "add", "node": str(node)}:
            explorer.add(node)
            return f"{node} is in the circuit"
        case {"do": "remove", "node": str(node)}:
            explorer.remove(node)
            return f"{node} is no longer in the circuit"
        case {"do": "reset"}:
            explorer.reset()
            return "the circuit is as it was found"
        case {"do": "save", "name": str(name)}:
            return f"saved: {explorer.save(_file(explorer, name))}"
        case _:
            raise EmotionCircuitsError(f"the explorer does not understand the message {str(dict(message))[:200]}")
    return ""


def _choices(given: Mapping[str, Any]) -> Parts:
    """The choices in a message, once their types are right."""
    types = {"emotion": str, "prompt": int | str, "strength": int | float}
    chosen = {name: given[name] for name in types if name in given}
    for name, value in chosen.items():
        if not isinstance(value, types[name]) or isinstance(value, bool):
            raise EmotionCircuitsError(f"{name} has the wrong type in a message: {str(value)[:100]!r}")
    return chosen


def _file(explorer: Explorer, name: str) -> Path:
    """The file of a saved circuit: a name in the run's own folder, never a path or a link that leads out of it."""
    if not _NAME.fullmatch(name):
        raise EmotionCircuitsError(
            f"{name!r} is no name for a circuit: use up to 64 letters, digits, spaces, dots, dashes and underscores, "
            "and no dot at the start"
        )
    return saved_file(explorer.run.folder.path, name)


def _view(explorer: Explorer) -> Parts:
    choice = explorer.choice
    return {
        "emotion": choice.emotion, "prompt": choice.prompt if isinstance(choice.prompt, int) else None,
        "text": explorer.text, "strength": choice.strength, "node": None if choice.node is None else str(choice.node),
        "calibrated": explorer.circuits.strength(choice.emotion),
    }  # fmt: skip


def _circuit(explorer: Explorer) -> Parts:
    """The circuit's nodes, and those that were taken out of it, best first."""
    now, then = explorer.circuit, explorer.circuits.found(explorer.emotion)
    rows = now.with_nodes(now.nodes | then.nodes).to_frame()
    nodes = [
        {"node": name, "kind": kind, "layer": int(layer), "index": int(index), "score": float(score),
         "state": _state(name, now.nodes, then.nodes)}
        for name, kind, layer, index, score in zip(
            rows["node"], rows["kind"], rows["layer"], rows["index"], rows["score"], strict=True
        )
    ]  # fmt: skip
    return {"emotion": now.emotion, "n_neurons": now.nodes.n_neurons, "n_heads": now.nodes.n_heads, "nodes": nodes}


def _state(node: str, now: NodeSet, then: NodeSet) -> str:
    if node not in now:
        return "removed"
    return "kept" if node in then else "added"


def _reply(change: ReplyChange) -> Parts:
    return {"before": change.before.text, "after": change.parts(), "changed": change.changed}


def _node(explorer: Explorer) -> Parts | None:
    if explorer.choice.node is None:
        return None
    node = explorer.choice.node
    facts = explorer.node(node)
    return _facts(facts) | {
        "in_circuit": node in explorer.circuit.nodes, "toggled": _reply(explorer.toggled(node)),
        "scored_by": explorer.circuit.provenance.get("settings", {}).get("method", "score"),
    }  # fmt: skip


def _facts(facts: NodeFacts) -> Parts:
    return {
        "node": str(facts.node), "kind": facts.node.kind, "emotion": facts.emotion,
        "scores": _records(facts.scores), "samples": _records(facts.samples.head(N_SAMPLES)),
        "n_samples": len(facts.samples), "promotes": _records(facts.vocabulary.top(N_TOKENS)),
        "suppresses": _records(facts.vocabulary.bottom(N_TOKENS)),
        "projection": _measured(facts.projection), "removal": _measured(facts.removal),
    }  # fmt: skip


def _measured(measured: Measurement) -> Parts:
    low, high = (None if math.isnan(end) else end for end in measured.interval)  # of one scenario there is none
    return {"mean": measured.mean, "low": low, "high": high, "n": len(measured.values)}


def _records(frame: pd.DataFrame) -> list[Parts]:
    """Rows as JSON has them, where a number that is not there is null."""
    return [{k: None if v != v else v for k, v in row.items()} for row in frame.to_dict("records")]


def _colours(palette: Any, looks: Mapping[str, str]) -> Parts:
    """A palette's colours by name, with one for each emotion."""
    named = {name: getattr(palette, name) for name in ("ink", "muted", "grid", "surface", "low", "high")}
    return named | {"emotions": {emotion: in_palette(colour, palette) for emotion, colour in looks.items()}}
