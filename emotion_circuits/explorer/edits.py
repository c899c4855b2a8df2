"""`EditedCircuits`: a run's calibrated circuits, with nodes put in and taken out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from emotion_circuits.circuits import Circuit
from emotion_circuits.control import CircuitModulation
from emotion_circuits.errors import ArtefactError, NodeError, RunError
from emotion_circuits.interventions import Patch
from emotion_circuits.model import HookedModel
from emotion_circuits.nodes import NodeSet
from emotion_circuits.pipeline import Run
from emotion_circuits.pipeline.manifest import place


class EditedCircuits:
    """One circuit per emotion, as the run found it and as it is now.

    Args:
        model: the run's model.
        run: the run.

    Raises:
        RunError: the run has no circuits yet.
        ArtefactError: they are of another model.
    """

    def __init__(self, model: HookedModel, run: Run) -> None:
        self.folder = run.folder.path
        self._modulations = _modulations(run)
        for emotion in self._modulations:
            self.found(emotion).check(model, what=f"the circuit of {emotion} in {self.folder}")
        self._nodes = {emotion: self.found(emotion).nodes for emotion in self._modulations}

    def found(self, emotion: str) -> Circuit:
        """The circuit that the run found."""
        return self._modulations[emotion].circuits[emotion]

    def edited(self, emotion: str) -> Circuit:
        """The circuit as it is now."""
        return self.found(emotion).with_nodes(self._nodes[emotion])

    def strength(self, emotion: str) -> float:
        """The strength that the run chose."""
        strength = self._modulations[emotion].strength
        assert isinstance(strength, float | int), "the modulation of one emotion has one strength"
        return float(strength)

    def patches(self, emotion: str, strength: float, nodes: NodeSet) -> list[Patch]:
        """What adds the emotion's contrast to ``nodes``, at the positions that the run chose."""
        positions = self._modulations[emotion].positions
        return CircuitModulation({emotion: self.found(emotion).with_nodes(nodes)}, strength, positions).patches(emotion)

    def add(self, emotion: str, nodes: NodeSet) -> None:
        """Put nodes in; each adds its own part of the contrast."""
        self._nodes[emotion] = self._nodes[emotion] | nodes

    def remove(self, emotion: str, nodes: NodeSet) -> None:
        """Take nodes out.

        Raises:
            NodeError: no node would be left.
        """
        left = self._nodes[emotion] - nodes
        if not len(left):
            raise NodeError("a circuit needs at least one node; set the strength to 0 to see the reply without it")
        self._nodes[emotion] = left

    def reset(self, emotion: str) -> None:
        """Go back to what the run found."""
        self._nodes[emotion] = self.found(emotion).nodes

    def save(self, emotion: str, path: Path, strength: float) -> None:
        """Save the circuit as it is now; its provenance says what was edited, and the strength that was looked at.

        Raises:
            ArtefactError: the file cannot be written.
        """
        now, then = self.edited(emotion), self.found(emotion)
        edits = {
            "added": (now.nodes - then.nodes).names(), "removed": (then.nodes - now.nodes).names(),
            "strength": strength,
        }  # fmt: skip
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtefactError(f"cannot make the folder {path.parent}: {error.strerror or error}") from error
        replace(now, provenance={**now.provenance, "edited": edits}).save(path)


def saved_file(folder: Path, name: str) -> Path:
    """Where a circuit is saved in a run folder: ``explorer/<name>.safetensors``.

    Raises:
        RunError: a link leads from there out of the folder, which may come from anybody.
    """
    try:
        return place(folder, f"explorer/{name}.safetensors")
    except RunError:
        raise RunError(
            f"{folder / 'explorer'} leads out of the run folder: nothing is saved there; remove the link"
        ) from None


def _modulations(run: Run) -> dict[str, CircuitModulation]:
    try:
        return run.modulations()
    except (ArtefactError, OSError) as error:
        where = run.folder.path
        raise RunError(
            f"{where} has no circuits to explore ({error}); make them with: emotion-circuits circuit --out {where}"
        ) from error
