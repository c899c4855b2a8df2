"""From prompts to token batches: chat template, left padding, mask and position ids.

Token ids always equal ``tokenizer.apply_chat_template(..., tokenize=True, add_generation_prompt=True)``; text is
never templated first and tokenized after, which would double a begin-of-text token. A template without a system
role, whether it raises or drops the message, gets the system message in front of the first user message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from emotion_circuits.data.prompts import Message, Prompt
from emotion_circuits.errors import ModelError, PromptError


@dataclass(frozen=True)
class TokenBatch:
    """Left-padded token ids of some prompts, each with the tokens of a reply where one was given.

    Attributes:
        ids: token ids.
        mask: false at padding.
        samples: for each row its index in the list of prompts that was asked for.
        reply: true at the tokens of a reply.
    """

    ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    samples: Int[Tensor, " batch"]
    reply: Bool[Tensor, "batch pos"]

    @property
    def position_ids(self) -> Int[Tensor, "batch pos"]:
        """Position of each token in its own sequence."""
        return (self.mask.long().cumsum(-1) - 1).clamp(min=0)

    @property
    def last_prompt(self) -> Int[Tensor, " batch"]:
        """Column of each row's last prompt token."""
        return self.ids.shape[1] - 1 - self.reply.sum(dim=1)

    def inputs(self) -> dict[str, Tensor]:
        """Keyword arguments of the Hugging Face model's forward."""
        return {"input_ids": self.ids, "attention_mask": self.mask.long(), "position_ids": self.position_ids}

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device."""
        return TokenBatch(*(getattr(self, f).to(device) for f in ("ids", "mask", "samples", "reply")))

    def split(self, size: int | None) -> list[TokenBatch]:
        """The rows in batches of at most ``size``, padded as they were; all together when it is None."""
        if size is None or len(self) <= size:
            return [self]
        parts = [getattr(self, f).split(size) for f in ("ids", "mask", "samples", "reply")]
        return [TokenBatch(*part) for part in zip(*parts, strict=True)]

    def __len__(self) -> int:
        return len(self.ids)


def render(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The token ids of a prompt, ready for the assistant's reply.

    Raises:
        ModelError: there is no tokenizer, or it has no chat template.
        PromptError: the template refuses the messages.
    """
    if tokenizer is None:
        raise ModelError("this model was built without a tokenizer; pass one to HookedModel.from_hf(model, tokenizer)")
    if prompt.text is not None:
        # A text that brings its begin-of-text token along must not get a second one.
        begun = bool(tokenizer.bos_token) and prompt.text.startswith(tokenizer.bos_token)
        return list(tokenizer(prompt.text, add_special_tokens=not begun)["input_ids"])
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template, so chats cannot be "
            "rendered; choose an instruct model, set tokenizer.chat_template, or use Prompt.raw(text)"
        )
    try:
        ids = _apply_template(tokenizer, prompt.messages)
    except Exception as error:  # templates raise whatever Jinja raises
        try:
            return _apply_template(tokenizer, without_system(prompt.messages))
        except Exception:
            raise PromptError(f"the chat template cannot render {list(prompt.messages)!r}: {error}") from error
    turns = [turn for turn in prompt.messages if turn[0] != "system"]
    if len(turns) < len(prompt.messages) and turns and ids == _apply_template(tokenizer, turns):
        # The template passes over system messages without a word.
        return _apply_template(tokenizer, without_system(prompt.messages))
    return ids


def render_all(tokenizer: Any, prompts: Iterable[Prompt], context: int | None) -> Iterator[list[int]]:
    """The token ids of several prompts, one after the other.

    Raises:
        PromptError: one is empty, or longer than the model's context.
    """
    for index, prompt in enumerate(prompts):
        sequence = render(tokenizer, prompt)
        if not sequence:
            raise PromptError(f"prompt {index} has no tokens; give it some text")
        check_length(index, len(sequence), 0, context)
        yield sequence


def check_length(index: int, prompt_tokens: int, reply_tokens: int, context: int | None) -> None:
    """Raise a `PromptError` unless a prompt fits into the model's context together with its reply."""
    if context is None or prompt_tokens + reply_tokens <= context:
        return
    reply = f" and a reply of {reply_tokens}" if reply_tokens else ""
    advice = "shorten it, or ask for fewer new tokens" if reply_tokens else "shorten it"
    raise PromptError(
        f"prompt {index} has {prompt_tokens} tokens{reply}, but the model's context holds {context}; {advice}"
    )


def without_system(messages: Sequence[Message]) -> list[Message]:
    """The messages with the system message put in front of the first user message."""
    system = "\n".join(text for role, text in messages if role == "system")
    turns = [turn for turn in messages if turn[0] != "system"]
    if system and turns:
        role, text = turns[0]
        turns[0] = (role, f"{system}\n\n{text}")
    return turns


def _apply_template(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    chat = [{"role": role, "content": text} for role, text in messages]
    # An assistant's turn at the end is continued, not answered.
    ongoing = bool(chat) and chat[-1]["role"] == "assistant"
    encoded = tokenizer.apply_chat_template(
        chat, tokenize=True, add_generation_prompt=not ongoing, continue_final_message=ongoing, return_dict=True
    )
    return list(encoded["input_ids"])


def pad(sequences: Sequence[Sequence[int]], samples: Sequence[int], pad_id: int, replies: Sequence[int]) -> TokenBatch:
    """Sequences side by side, padded on the left.

    Args:
        sequences: token ids of each prompt, with its reply's.
        samples: index of each in the list of prompts.
        pad_id: fills the padding; its value never matters, since the mask hides it.
        replies: how many of each sequence's last tokens are the reply.
    """
    width = max(len(s) for s in sequences)
    ids = torch.full((len(sequences), width), pad_id, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.bool)
    reply = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, (sequence, n_reply) in enumerate(zip(sequences, replies, strict=True)):
        ids[row, width - len(sequence) :] = torch.tensor(sequence, dtype=torch.long)
        mask[row, width - len(sequence) :] = True
        reply[row, width - n_reply :] = n_reply > 0
    return TokenBatch(ids, mask, torch.tensor(samples, dtype=torch.long), reply)


def batches_of(sequences: Sequence[Sequence[int]], batch_size: int, *, sort: bool = True) -> Iterator[list[int]]:
    """Indices of ``sequences`` in batches; sorted by length, so that little is padding, equal ones side by side."""
    order = list(range(len(sequences)))
    if sort:
        order.sort(key=lambda i: (len(sequences[i]), sequences[i], i))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
