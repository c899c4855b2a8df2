"""Batches for training: examples of similar length side by side, and the mask of what counts in the loss."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

Encoded = tuple[list[int], list[int]]
"""Prompt ids and reply ids of one example."""


@dataclass(frozen=True)
class Batch:
    """Right-padded examples.

    Attributes:
        ids: token ids (batch, pos).
        predicts_reply: positions whose next token is part of the reply (batch, pos).
        message_start: where the last user message begins (batch,).
        prompt_length: the reply's first position (batch,).
    """

    ids: torch.Tensor
    predicts_reply: torch.Tensor
    message_start: torch.Tensor
    prompt_length: torch.Tensor


def make_batches(encoded: list[Encoded], batch_tokens: int, pad: int, turn: int, seed: int = 0) -> list[Batch]:
    """Sort by length, cut into batches, shuffle the batches.

    Args:
        encoded: the examples.
        batch_tokens: most tokens of a batch, padding included; a longer single example makes a batch of its own.
        pad: id of the padding token.
        turn: id of the token that opens a turn.
        seed: of the shuffle.

    Returns:
        The batches. Padding is on the right, where the causal mask keeps it from mattering.
    """
    rows = sorted(encoded, key=lambda row: len(row[0]) + len(row[1]))
    groups: list[list[Encoded]] = []
    for row in rows:
        # Sorted: the newest row is the longest, so it sets the width of the batch.
        if groups and (len(groups[-1]) + 1) * (len(row[0]) + len(row[1])) <= batch_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    random.Random(seed).shuffle(groups)
    return [_pad(group, pad, turn) for group in groups]


def _pad(rows: list[Encoded], pad: int, turn: int) -> Batch:
    longest = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    starts = torch.zeros(len(rows), dtype=torch.long)
    for row, (prompt, reply) in enumerate(rows):
        ids[row, : len(prompt) + len(reply)] = torch.tensor(prompt + reply)
        mask[row, len(prompt) - 1 : len(prompt) + len(reply) - 1] = True
        # The last turn is the assistant's header, the one before it the user's message.
        starts[row] = [position for position, token in enumerate(prompt) if token == turn][-2]
    return Batch(ids, mask, starts, torch.tensor([len(prompt) for prompt, _ in rows]))
