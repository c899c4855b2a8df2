"""`Explorer`: a model, a finished run, and what one tries out with them.

Everything works from Python: set `emotion`, `prompt` and `strength` and read `reply`; ask for a `node`; `add` and
`remove` nodes, `reset`, `save`. A notebook shows the same as a widget (`emotion_circuits.explorer.widget`), and
``emotion-circuits explore`` as a page (`emotion_circuits.explorer.server`); both only translate, by
`emotion_circuits.explorer.messages`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.circuits import Circuit
from emotion_circuits.data.prompts import Prompt, check_emotions
from emotion_circuits.data.sev import Item
from emotion_circuits.errors import EmotionCircuitsError, PromptError
from emotion_circuits.explorer.change import ReplyChange
from emotion_circuits.explorer.edits import EditedCircuits, saved_file
from emotion_circuits.explorer.facts import Evidence, NodeFacts
from emotion_circuits.generation import generate
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import Node, NodeSet
from emotion_circuits.pipeline import Run, load_run
from emotion_circuits.replies import Reply

if TYPE_CHECKING:
    from emotion_circuits.explorer.widget import ExplorerWidget

MAX_STRENGTH = 10.0
"""A contrast that is added more often than this says nothing about the emotion any more."""


@dataclass(frozen=True)
class Choice:
    """What is looked at.

    Attributes:
        emotion: whose circuit acts.
        prompt: which of the explorer's items, or a text.
        strength: how often the circuit's contrast is added.
        node: the node whose facts the front ends show, if any.
    """

    emotion: str
    prompt: int | str
    strength: float
    node: Node | None = None


class Explorer:
    """Try a run's circuits out: on any prompt, at any strength, with more nodes or fewer.

    Args:
        model: the run's model.
        run: a run (its stages up to ``circuit``), or its folder.
        samples: most prompts of each emotion that a node is looked at on.

    Attributes:
        items: the run's validation items, which `prompt` counts.
        choice: what is looked at.

    Raises:
        RunError: the run has no circuits yet.
        ArtefactError: the run's circuits are of another model.

    Example:
        >>> import emotion_circuits as ec
        >>> run = ec.load_run("runs/demo")  # doctest: +SKIP
        >>> explorer = ec.Explorer(run.model, run)  # doctest: +SKIP
        >>> explorer.strength = 1.5  # doctest: +SKIP
        >>> explorer.reply  # doctest: +SKIP
    """

    def __init__(self, model: HookedModel, run: Run | str | Path, *, samples: int = 24) -> None:
        self.model = model
        self.run = run if isinstance(run, Run) else load_run(run, model)
        self.items: list[Item] = self.run.validation.items
        self.circuits, evidence = EditedCircuits(model, self.run), Evidence(model, self.run, samples)
        # What was seen before is there again at once.
        self._replied, self._facts = lru_cache(maxsize=256)(self._generate), lru_cache(maxsize=64)(evidence.facts)
        self._watchers: list[Callable[[], None]] = []
        self._widget: ExplorerWidget | None = None
        first = self.run.emotions[0]
        self.choice = Choice(first, 0, self.circuits.strength(first))

    # What is looked at

    @property
    def emotion(self) -> str:
        """Whose circuit acts; another one starts at its calibrated strength."""
        return self.choice.emotion

    @emotion.setter
    def emotion(self, emotion: str) -> None:
        self.choose(emotion=emotion)

    @property
    def prompt(self) -> int | str:
        """Which of `items` the model replies to, or a text of one's own."""
        return self.choice.prompt

    @prompt.setter
    def prompt(self, prompt: int | str) -> None:
        self.choose(prompt=prompt)

    @property
    def strength(self) -> float:
        """How often the circuit's contrast is added; 0 changes nothing, negative suppresses."""
        return self.choice.strength

    @strength.setter
    def strength(self, strength: float) -> None:
        self.choose(strength=strength)

    def choose(
        self, emotion: str | None = None, prompt: int | str | None = None, strength: float | None = None
    ) -> None:
        """Change several things at once; all of them, or none when one is wrong.

        Raises:
            EmotionError: the run has no such emotion.
            PromptError: there is no such item, or the text is empty or too long.
            EmotionCircuitsError: the strength is no number between -10 and 10.
        """
        new = self.choice
        if emotion is not None:
            check_emotions([emotion], self.run.emotions, "the run")
            new = replace(new, emotion=emotion, strength=self.circuits.strength(emotion))
        if prompt is not None:
            self._check_fits(self._chat(prompt))
            new = replace(new, prompt=prompt)
        if strength is not None:
            if not (math.isfinite(strength) and abs(strength) <= MAX_STRENGTH):
                raise EmotionCircuitsError(
                    f"strength must be a number between -{MAX_STRENGTH:g} and {MAX_STRENGTH:g}, got {strength}"
                )
            new = replace(new, strength=float(strength))
        self._set(new)

    @property
    def text(self) -> str:
        """The user's message as the model is shown it."""
        return self._chat(self.choice.prompt).messages[-1][1]

    # What is seen

    @property
    def reply(self) -> ReplyChange:
        """The reply without the circuit, and with it at `strength`."""
        return ReplyChange(self._replied(self._chat(self.choice.prompt), None), self._with(self.circuit.nodes))

    @property
    def circuit(self) -> Circuit:
        """The emotion's circuit, as edited."""
        return self.circuits.edited(self.emotion)

    def node(self, node: str | Node) -> NodeFacts:
        """What is known about a node, in the circuit or not, in the light of `emotion`.

        Raises:
            NodeError: the model has no such node.
        """
        return self._facts(self._known(node), self.emotion)

    def toggled(self, node: str | Node) -> ReplyChange:
        """The reply with the circuit as it is, and with the node taken out (put in, where it is not in it).

        Raises:
            NodeError: the model has no such node.
        """
        node, nodes = self._known(node), self.circuit.nodes
        alone = NodeSet.of(self.model, node)
        return ReplyChange(self._with(nodes), self._with(nodes - alone if node in nodes else nodes | alone))

    def look_at(self, node: str | Node | None) -> None:
        """Show a node's facts in the front ends; None shows none.

        Raises:
            NodeError: the model has no such node.
        """
        self._set(replace(self.choice, node=None if node is None else self._known(node)))

    # Edits

    def add(self, *nodes: str | Node) -> None:
        """Put nodes into the emotion's circuit; each adds its own part of the contrast.

        Raises:
            NodeError: the model has no such node.
        """
        self.circuits.add(self.emotion, NodeSet.of(self.model, *nodes))
        self._set(self.choice)

    def remove(self, *nodes: str | Node) -> None:
        """Take nodes out of the emotion's circuit.

        Raises:
            NodeError: the model has no such node, or no node would be left.
        """
        self.circuits.remove(self.emotion, NodeSet.of(self.model, *nodes))
        self._set(self.choice)

    def reset(self) -> None:
        """Take the emotion's circuit back to what the run found."""
        self.circuits.reset(self.emotion)
        self._set(self.choice)

    def save(self, path: str | Path | None = None) -> Path:
        """Save the emotion's circuit as it is now; ``Circuit.load`` reads it.

        Args:
            path: the file; ``explorer/<emotion>.safetensors`` in the run folder by default.

        Returns:
            The file.

        Raises:
            ArtefactError: the file cannot be written.
            RunError: without a ``path``, if a link in the run folder leads out of it.
        """
        path = Path(path or saved_file(self.run.folder.path, self.emotion))
        self.circuits.save(self.emotion, path, self.strength)
        return path

    # Front ends

    def watch(self, watcher: Callable[[], None]) -> None:
        """Have ``watcher`` called after every change of what is looked at."""
        self._watchers.append(watcher)

    @property
    def widget(self) -> ExplorerWidget:
        """The widget, to be laid out beside others; a notebook shows it where the explorer ends a cell.

        Raises:
            EmotionCircuitsError: anywidget is not installed.
        """
        if self._widget is None:
            from emotion_circuits.explorer.widget import ExplorerWidget

            self._widget = ExplorerWidget(self)
        return self._widget

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    def __repr__(self) -> str:
        return f"Explorer({self.model.name}, strength {self.strength:g}, {self.circuit!r})"

    # How

    def _set(self, choice: Choice) -> None:
        self.choice = choice
        for watcher in self._watchers:
            watcher()

    def _known(self, node: str | Node) -> Node:
        return next(iter(NodeSet.of(self.model, node)))

    def _chat(self, prompt: int | str) -> Prompt:
        """The uninstructed chat of an item or of a text, both under the run's length rule."""
        if isinstance(prompt, str):
            return Prompt((self.items[0].prompt().messages[0], ("user", prompt)))
        if not 0 <= prompt < len(self.items):
            raise PromptError(f"there is no item {prompt}; they are numbered 0 to {len(self.items) - 1}")
        return self.items[prompt].prompt()

    def _check_fits(self, chat: Prompt) -> None:
        if not chat.messages[-1][1].strip():
            raise PromptError("the prompt is empty; write what the model should reply to")
        # Batching refuses a prompt that leaves no room for its reply.
        list(self.model.batches([chat], 1, stage="generate", reply_tokens=self.run.config().max_new_tokens))

    def _with(self, nodes: NodeSet) -> Reply:
        acting = (self.emotion, self.strength, nodes) if self.strength else None
        return self._replied(self._chat(self.choice.prompt), acting)

    def _generate(self, chat: Prompt, acting: tuple[str, float, NodeSet] | None) -> Reply:
        """The reply with a circuit acting: its emotion, strength and nodes."""
        patches = self.circuits.patches(*acting) if acting else []
        emotion, method = (acting[0], "circuit") if acting else (None, "none")
        return generate(self.model, [chat], patches, self.run.config(), emotion=emotion, method=method)[0]
