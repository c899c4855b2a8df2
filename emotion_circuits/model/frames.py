"""Frames: which tokens a forward pass is looking at.

"The last position" of a tensor is one prompt token without a key-value cache and every decoded token with one. A
frame removes the ambiguity: for the columns of the current call it knows which belong to the prompt and which were
generated, so that a patch's positions mean the same either way.

1. The first call inside ``patched`` is the prompt. Left or right padding is read off its attention mask.
2. A later call with a filled cache continues it: its columns are generated tokens.
3. A later call without a cache whose ids are those of the call before it and one more continues it too (generation
   without a cache); anything else is a new prompt, also one that begins with the words of an earlier prompt.
4. What `HookedModel` runs itself (``logits``, ``record``, ...) it announces first: which prompt is in which row, and
   where each prompt ends and its reply begins. No guess is needed then.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from emotion_circuits.errors import PatchError
from emotion_circuits.types import Position

Selection = bool | Bool[Tensor, "batch pos"]
"""Which tokens of a call: all of them, none of them, or a mask."""


@dataclass
class Frame:
    """One forward call's tokens.

    Attributes:
        past: tokens already in the cache.
        width: tokens in this call.
        last_prompt: for each row the column of the last prompt token, counted from the sequence's start; a plain
            int when all rows agree.
        real: false at padding; None when nothing is padded.
        samples: for each row its index in the caller's list of prompts; None means in order.
        mask_end: the column just after that of an explicit mask's last entry.
    """

    past: int
    width: int
    last_prompt: int | Int[Tensor, " batch"]
    real: Bool[Tensor, "batch pos"] | None = None
    samples: Int[Tensor, " batch"] | None = None
    mask_end: int | Int[Tensor, " batch"] = 0

    def select(self, positions: Position | Bool[Tensor, "sample column"]) -> Selection:
        """Which of this call's tokens ``positions`` means."""
        if isinstance(positions, Tensor):
            return self._explicit(positions)
        if positions == "all":
            return True if self.real is None else self.real
        if isinstance(self.last_prompt, int):
            chosen = self._uniform(positions)
        else:
            chosen = self._compare(positions, self._columns(self.last_prompt.device), self.last_prompt[:, None])
        if isinstance(chosen, bool) or self.real is None:
            return chosen if self.real is None or chosen is False else self.real
        return chosen & self.real

    def for_rows(self, n: int) -> Frame:
        """The same when each prompt takes several rows in turn, as in a suffix pass of many variants."""
        if self.samples is None or n % len(self.samples) or n == len(self.samples):
            return self
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        repeated = {k: v.repeat_interleave(n // len(v), 0) for k, v in held.items() if isinstance(v, Tensor)}
        return replace(self, **repeated)

    @property
    def generated(self) -> Selection:
        """Which of this call's tokens were generated."""
        frame = Frame(self.past, self.width, self.last_prompt)
        return frame.select("generated")

    @property
    def step(self) -> int | Int[Tensor, "batch pos"]:
        """Which token of the reply each token makes; 0 at the last prompt token and before it."""
        if self.width == 1 and isinstance(self.last_prompt, int):
            return max(0, self.past - self.last_prompt)
        last = self.last_prompt if isinstance(self.last_prompt, int) else self.last_prompt[:, None]
        device = None if isinstance(last, int) else last.device
        return (self._columns(device) - last).clamp(min=0)

    def _columns(self, device: torch.device | None = None) -> Tensor:
        return torch.arange(self.past, self.past + self.width, device=device)[None]

    def _uniform(self, positions: Position) -> Selection:
        first, last = self.past, self.past + self.width - 1
        if first > self.last_prompt:
            return positions in ("generated", "last")
        if last < self.last_prompt or self.width == 1:
            inside = positions == "prompt" or (positions in ("last", "last_prompt") and last == self.last_prompt)
            return inside
        return self._compare(positions, self._columns(), torch.tensor(self.last_prompt))

    @staticmethod
    def _compare(positions: Position, column: Tensor, last_prompt: Tensor) -> Tensor:
        if positions == "last_prompt":
            return column == last_prompt
        if positions == "prompt":
            return column <= last_prompt
        return column > last_prompt if positions == "generated" else column >= last_prompt

    def _explicit(self, mask: Tensor) -> Selection:
        if self.samples is not None:
            if int(self.samples.max()) >= len(mask):
                raise PatchError(
                    f"a patch's positions are a mask with {len(mask)} rows, but sample {int(self.samples.max())} is "
                    "run; give one row per prompt"
                )
            mask = mask[self.samples.to(mask.device)]
        # Aligned at the prompt's end, since the padding on the left differs from batch to batch.
        end = self.mask_end.to(mask.device)[:, None] if isinstance(self.mask_end, Tensor) else self.mask_end
        index = self._columns(mask.device) - end + mask.shape[1]
        inside = (index >= 0) & (index < mask.shape[1])
        return mask.gather(1, index.clamp(0, mask.shape[1] - 1).expand(len(mask), -1)) & inside


class FrameTracker:
    """Keeps the current `Frame` up to date while a model is called; see the module's docstring.

    Args:
        samples: for each row of the batch its index in the caller's list of prompts.
        prompt_width: columns that belong to the prompt, when the caller knows better than the rules above.
    """

    def __init__(self, samples: Tensor | None = None, prompt_width: int | None = None) -> None:
        self._samples, self._given_width = samples, prompt_width
        self._announced: tuple[Tensor, Tensor] | None = None
        self._rows: Tensor | None = samples
        self._before: Tensor | None = None  # the ids of the last call without a cache
        self._last_prompt: int | Tensor | None = None
        self._mask_end: int | Tensor = 0
        self.frame: Frame | None = None

    def announce(self, samples: Tensor, last_prompt: Tensor) -> None:
        """Say what the next call's rows are, and in which columns their prompts end."""
        self._announced = (samples, last_prompt)

    def pre_hook(self, module: Any, args: tuple, kwargs: dict) -> None:
        """Forward pre-hook for the model's root."""
        ids = args[0] if args else kwargs.get("input_ids")
        shape = (ids if ids is not None else kwargs["inputs_embeds"]).shape[:2]
        mask, cache = kwargs.get("attention_mask"), kwargs.get("past_key_values")
        mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        past = int(cache.get_seq_length()) if cache is not None else 0
        if self._announced is not None:
            self._start_announced(ids, *self._announced)
        elif self._last_prompt is None or (past == 0 and not self._continues(ids)):
            self._start(ids, past + shape[1], mask)
        else:
            self._before = None if past else ids
        assert self._last_prompt is not None
        padding = _padding(mask, shape[1])
        self.frame = Frame(past, shape[1], self._last_prompt, padding, self._rows, self._mask_end)

    def _continues(self, ids: Tensor | None) -> bool:
        old = self._before
        if self._given_width is not None:
            return True
        if ids is None or old is None or len(ids) != len(old) or ids.shape[1] != old.shape[1] + 1:
            return False
        return bool((ids[:, :-1] == old).all())

    def _start_announced(self, ids: Tensor | None, samples: Tensor, last_prompt: Tensor) -> None:
        self._announced, self._before = None, ids
        self._rows = samples if self._samples is None else self._samples
        first = int(last_prompt[0])
        self._last_prompt = first if bool((last_prompt == first).all()) else last_prompt
        self._mask_end = self._last_prompt + 1

    def _start(self, ids: Tensor | None, width: int, mask: Tensor | None) -> None:
        width = self._given_width or width
        self._before, self._last_prompt, self._mask_end, self._rows = ids, width - 1, width, self._samples
        if mask is not None and not bool(mask[:, width - 1].all()):
            # Right padding: the last prompt token is the last column that the mask keeps.
            columns = torch.arange(width, device=mask.device)
            self._last_prompt = (mask[:, :width].bool() * columns).amax(dim=1)


def _padding(mask: Tensor | None, width: int) -> Tensor | None:
    if mask is None or width == 1:
        return None
    real = mask[:, -width:].bool()
    return None if bool(real.all()) else real
