"""Backends: engines beside the wrapped model that can make replies.

Wherever a model is only asked for replies, a `Backend` can be given in its place. It makes texts and nothing else;
what all backends share is here:

1. The prompts' journal says which replies are there already; the backend is asked for the others.
2. Each reply is kept as soon as it comes. A prompt that gets none keeps its place, with the error; it is not kept in
   the journal, so that taking the work up again tries it anew.
3. Of several processes one asks, since a server spreads its load itself; all get the replies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from emotion_circuits import distributed
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.generation.config import GenerationConfig
from emotion_circuits.interventions import Patch
from emotion_circuits.journal import ReplyJournal
from emotion_circuits.progress import progress
from emotion_circuits.replies import Replies, Reply

OnReply = Callable[[int, Reply], None]
"""Called with a prompt's index and its reply as soon as its batch is done."""


@dataclass(frozen=True)
class Made:
    """What a backend made of one prompt.

    Attributes:
        text: the reply.
        tokens: its token ids, as far as the backend knows them.
        error: why there is no reply.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    error: str | None = None


OnMade = Callable[[int, Made], None]


@runtime_checkable
class Backend(Protocol):
    """Makes replies."""

    name: str

    def make(
        self,
        prompts: Mapping[int, Prompt],
        patches: Sequence[Patch],
        config: GenerationConfig,
        batch_size: int | None,
        on_made: OnMade,
    ) -> None:
        """Reply to every prompt, and hand each reply over as soon as it is there.

        Args:
            prompts: by their index in the caller's list, which ``Patch.rows`` and ``config.seed_of`` refer to.
            patches: to act while replies are made.
            config: how to decode.
            batch_size: prompts at once.
            on_made: called once for every prompt, in any order.

        Raises:
            ModelError: the backend cannot decode like this.
            PatchError: the backend cannot express a patch; says why.
        """
        ...


def replies_of(
    backend: Backend,
    prompts: Sequence[Prompt],
    patches: Sequence[Patch],
    config: GenerationConfig,
    *,
    emotion: str | None,
    method: str,
    batch_size: int | None,
    on_reply: OnReply | None,
    journal: ReplyJournal | None,
) -> Replies:
    """What `emotion_circuits.generate` does with a backend; see there."""
    call = None if journal is None else journal.call(prompts, backend.name, patches, config, emotion, method)
    made = {} if call is None else {i: Made(text, tokens) for i, (text, tokens) in call.made.items()}

    def reply(index: int, held: Made) -> Reply:
        prompt = prompts[index]
        return Reply(prompt, held.text, held.tokens, emotion or prompt.emotion, method, held.error)

    def work(indices: Sequence[int]) -> list[tuple[str, Sequence[int], str | None]]:
        with progress("generate", len(indices)) as advance:

            def keep(index: int, held: Made) -> None:
                made[index] = held
                if call is not None and held.error is None:
                    call.add(index, reply(index, held))
                if on_reply:
                    on_reply(index, reply(index, held))
                advance(1)

            advance(len(made))
            if missing := {i: prompts[i] for i in indices if i not in made}:
                backend.make(missing, patches, config, batch_size, keep)
        return [(made[i].text, made[i].tokens, made[i].error) for i in indices]

    answers = distributed.spread(work, range(len(prompts)), alone=True)
    return Replies(tuple(reply(i, Made(text, tuple(tokens), error)) for i, (text, tokens, error) in enumerate(answers)))
