"""Publishing circuits: one repository on the Hugging Face hub per circuit.

``circuit.safetensors``  what `Circuit.save` writes
``nodes.csv``            `Circuit.to_frame`, for people
``README.md``            a model card: what it is, whose it is, what was measured, how to load it

Everything goes up in one commit, and nothing is read back but the first of these.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import ArtefactError

if TYPE_CHECKING:
    from emotion_circuits.circuits.circuit import Circuit
    from emotion_circuits.circuits.metrics import CircuitScore

FILE = "circuit.safetensors"
_SHOWN = 20  # nodes in the card's table


def push(
    circuit: Circuit, repo: str, scores: Sequence[CircuitScore], *, private: bool | None, revision: str | None,
    token: str | None, message: str | None,
) -> str:  # fmt: skip
    """See `Circuit.push_to_hub`."""
    from huggingface_hub import CommitOperationAdd, HfApi

    with tempfile.TemporaryDirectory() as folder, _own_errors(repo, revision):
        path = Path(folder) / FILE
        circuit.save(path)
        files = {FILE: path.read_bytes(), "nodes.csv": circuit.to_frame().to_csv(index=False).encode()}
        files["README.md"] = card(circuit, repo, scores).encode()
        api = HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        added = [CommitOperationAdd(name, content) for name, content in files.items()]
        message = message or f"Circuit of {circuit.emotion}"
        done = api.create_commit(repo, added, commit_message=message, revision=revision)
        return done.commit_url


def pull(repo: str, revision: str | None, token: str | None) -> Path:
    """The circuit's file of a repository, in the hub's cache, in a folder that is named after its commit."""
    from huggingface_hub import hf_hub_download

    with _own_errors(repo, revision):
        return Path(hf_hub_download(repo, FILE, revision=revision, token=token))


@contextmanager
def _own_errors(repo: str, revision: str | None) -> Iterator[None]:
    """Turn the hub's errors into `ArtefactError` that say what to do."""
    from huggingface_hub import errors

    try:
        yield
    except ArtefactError:
        raise
    # From the particular to the general: each is a subclass of some that come after it.
    except errors.GatedRepoError as error:
        raise _error(f"{repo} is gated; ask for access on its page, and log in with `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise _error(
            f"there is no repository {repo!r} on the hub that you may see; check the name, and for a private one log "
            "in with `hf auth login` or pass token="
        ) from error
    except errors.RevisionNotFoundError as error:
        raise _error(f"{repo} has no revision {revision!r}; give a branch, tag or commit of it") from error
    except errors.LocalEntryNotFoundError as error:
        raise _error(_unreachable(repo)) from error
    except errors.EntryNotFoundError as error:
        raise _error(f"{repo} has no file {FILE}; is it a circuit? push_to_hub makes such repositories") from error
    except (errors.HFValidationError, errors.LocalTokenNotFoundError, errors.HfHubHTTPError) as error:
        raise _error(_refused(repo, error)) from error
    except OSError as error:  # no name resolution, no route, offline mode
        raise _error(_unreachable(repo)) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("httpx", "httpcore", "requests"):
            raise
        raise _error(_unreachable(repo)) from error


def _error(text: str) -> ArtefactError:
    return ArtefactError(text)


def _unreachable(repo: str) -> str:
    return (
        f"cannot reach the hub for {repo!r}: no network, or offline mode (HF_HUB_OFFLINE=1), and no copy in the cache; "
        "save the circuit with circuit.save(path) and send the file instead"
    )


def _refused(repo: str, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the hub refuses {repo!r} ({status}): log in with `hf auth login`, or pass a token that may write there"
    return f"the hub refuses {repo!r}: {str(error).strip().splitlines()[0]}"


def card(circuit: Circuit, repo: str, scores: Sequence[CircuitScore] = ()) -> str:
    """The model card, Markdown with the hub's header.

    Args:
        circuit: the circuit.
        repo: its repository.
        scores: what was measured.
    """
    held = circuit.provenance
    model = str(held.get("model") or "unknown")
    base = [f"base_model: {model}"] if model.count("/") == 1 and not model.startswith(("/", ".")) else []
    header = [
        "---",
        "library_name: emotion_circuits",
        *base,
        "tags:",
        "- emotion-circuits",
        "- interpretability",
        "---",
    ]
    facts = {
        "model": model, "revision": held.get("revision"), "fingerprint of its weights": held.get("weights"),
        "nodes": f"{circuit.nodes.n_neurons} neurons and {circuit.nodes.n_heads} heads of {circuit.dims.n_nodes:,}",
        "contrast": _contrast(circuit), "method": (held.get("settings") or {}).get("method"),
        "builder": (held.get("builder") or {}).get("name"), "prompts": held.get("n_prompts"),
        "versions": ", ".join(f"{name} {version}" for name, version in (held.get("versions") or {}).items()),
    }  # fmt: skip
    rows = [(name, value) for name, value in facts.items() if value]
    best = [(row["node"], f"{row['score']:.4g}") for row in circuit.to_frame().head(_SHOWN).to_dict("records")]
    return "\n".join([
        *header, "", f"# A circuit of {circuit.emotion} in {model}", "",
        f"Nodes (MLP neurons and attention heads) that are said to make {circuit.emotion}, with every node's score and "
        "the change that is added to them to bring it about. Not a model: it belongs to the one named below.", "",
        *_table(("what", "value"), rows), "",
        "## Load", "", "```python", "import emotion_circuits as ec", "",
        f'circuit = ec.Circuit.from_hub("{repo}")', "```", "",
        "## Measured", "", *_measured(scores), "",
        f"## Nodes, the {_SHOWN} with the highest score" if len(circuit.nodes) > _SHOWN else "## Nodes", "",
        *_table(("node", "score"), best),
        "", "All of them are in `nodes.csv`.", "",
    ])  # fmt: skip


def _contrast(circuit: Circuit) -> str | None:
    if circuit.contrast is None:
        return None
    parts = "last prompt token" + (" and reply tokens" if circuit.contrast.reply is not None else "")
    return f"minus the baseline “{circuit.contrast.baseline}”, measured at the {parts}"


def _measured(scores: Sequence[CircuitScore]) -> list[str]:
    if not scores:
        return ["Nothing was handed over with this circuit; measure it with `ec.faithfulness` and `ec.completeness`."]
    rows = [
        (s.metric, f"{s.value:.3f}", f"{s.interval[0]:.3f} to {s.interval[1]:.3f}",
         *(f"{float(c.mean()):.3f}" if len(c) else "–" for c in (s.random, s.shuffled)), s.ablation, s.n_samples)
        for s in scores
    ]  # fmt: skip
    columns = ("metric", "value", "95 %", "random circuits", "shuffled labels", "ablation", "prompts")
    return _table(columns, rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return [f"| {' | '.join(str(cell) for cell in row)} |" for row in (columns, ["---"] * len(columns), *rows)]
