r"""Running sums over complete groups (method.md, stages 2 and 5).

A group is one (scenario, valence) pair; it counts when every emotion has a sample in it. With
:math:`x_{g,e}` the activation of group g under emotion e,

1. subtracting the group's mean, averaging over groups and subtracting the mean over emotions equals
   :math:`M_e - \frac1E \sum_{e'} M_{e'}` with :math:`M_e = \frac1G \sum_g x_{g,e}`, so one running sum per emotion
   is enough;
2. sums under random signs, :math:`S_k = \sum_g s_{k,g} x_g`, give the means of random halves, and so the
   split-half agreement, without a second pass;
3. sums of squares give the shares of variance that group and emotion explain;
4. sums of several processes are added up; a group whose samples went to two of them is folded in once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits import distributed
from emotion_circuits.data.prompts import Prompt
from emotion_circuits.errors import DataError, EmotionError


def complete_groups(prompts: Sequence[Prompt], emotions: Sequence[str]) -> list[int]:
    """Indices of the prompts whose group has every emotion, group by group.

    Raises:
        EmotionError: no prompt has an emotion that was asked for.
        DataError: no group is complete.
    """
    members: dict[Any, list[int]] = defaultdict(list)
    present: dict[Any, set[str]] = defaultdict(set)
    for i, prompt in enumerate(prompts):
        if prompt.emotion in emotions:
            members[prompt.group].append(i)
            present[prompt.group].add(prompt.emotion)  # type: ignore[arg-type]
    absent = set(emotions) - set().union(*present.values(), set())
    if absent:
        raise EmotionError(f"no prompt has the emotion {', '.join(sorted(absent))}; elicit it, or leave it out")
    chosen = [i for group, held in present.items() if len(held) == len(emotions) for i in members[group]]
    if not chosen:
        nameless = any(p.item is None for p in prompts)
        raise DataError(
            f"none of the {len(present)} groups (scenario, valence) has a sample of every emotion "
            f"({', '.join(emotions)}); accept more replies or ask for fewer emotions"
            + ("; prompts without item= are of one scenario when their user messages are the same" if nameless else "")
        )
    return chosen


class GroupStatistics:
    """Sums over complete groups, fed sample by sample in any order that keeps a group's samples close together.

    Args:
        prompts: the prompts whose activations will be added; all of their groups complete.
        emotions: order of the emotion axis.
        shape: of one sample's activations.
        n_splits: random halves for the split-half agreement.
        seed: of the halves.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        emotions: Sequence[str],
        shape: Sequence[int],
        n_splits: int = 8,
        seed: int = 0,
    ) -> None:
        self.emotions = tuple(emotions)
        self._expected = Counter(prompt.group for prompt in prompts)
        self._per_emotion = Counter((prompt.group, prompt.emotion) for prompt in prompts)
        groups = list(self._expected)
        self.n_groups = len(groups)
        generator = torch.Generator().manual_seed(seed)
        # Each split gives +1 to one half of the groups and -1 to the other.
        ranks = torch.rand(n_splits, len(groups), generator=generator).argsort(dim=1).argsort(dim=1)
        self._signs = dict(zip(groups, torch.where(ranks < len(groups) // 2, 1.0, -1.0).T, strict=True))
        self._open: dict[Any, Tensor] = {}
        self.sum = torch.zeros(len(self.emotions), *shape, dtype=torch.float64)
        self._signed = torch.zeros(n_splits, *self.sum.shape, dtype=torch.float64)
        self._squares = torch.zeros(*shape[:-1], dtype=torch.float64)
        self._group_squares = torch.zeros_like(self._squares)

    def add(self, prompt: Prompt, value: Float[Tensor, "*site unit"]) -> None:
        """Add one sample; when its group is complete, the group's buffer is folded into the sums and freed."""
        group, value = prompt.group, value.double().cpu()
        if group not in self._open:
            self._open[group] = value.new_zeros(len(self.emotions), *value.shape)
        slot = self.emotions.index(prompt.emotion or "")
        self._open[group][slot] += value / self._per_emotion[group, prompt.emotion]
        self._expected[group] -= 1
        if self._expected[group] == 0:
            self._fold(group, self._open.pop(group))

    def _fold(self, group: Any, x: Float[Tensor, "emotion *site unit"]) -> None:
        self.sum += x
        self._squares += (x * x).sum(dim=(0, -1))
        self._group_squares += x.mean(dim=0).square().sum(dim=-1) * len(x)
        for k, sign in enumerate(self._signs[group].tolist()):
            self._signed[k].add_(x, alpha=sign)

    def put_together(self) -> None:
        """Add up what all processes were fed; no sample may come after this."""
        if distributed.size() == 1:
            return
        number = {group: i for i, group in enumerate(self._expected)}
        mine, n = distributed.rank(), distributed.size()
        # A group that two processes have parts of is closed by the first one of all.
        parts = distributed.merge({number[group] * n + mine: x for group, x in self._open.items()})
        self._open.clear()
        if distributed.is_first():
            for group, i in number.items():
                held = [parts[i * n + r] for r in range(n) if i * n + r in parts]
                if held:
                    self._fold(group, torch.stack(held).sum(dim=0))
        distributed.add(self.sum, self._signed, self._squares, self._group_squares)

    @property
    def means(self) -> Float[Tensor, "emotion *site unit"]:
        """Mean over groups, of each emotion."""
        assert not self._open, "statistics are read once every sample has been added"
        return self.sum / self.n_groups

    @property
    def centred(self) -> Float[Tensor, "emotion *site unit"]:
        """Each emotion's mean minus the mean over emotions."""
        return self.means - self.means.mean(dim=0)

    def split_half(self) -> Float[Tensor, "split emotion *site"]:
        """Cosine between the centred means of the two halves of each split; NaN with fewer than two groups."""
        n_first = self.n_groups // 2
        if n_first == 0:
            return torch.full(self._signed.shape[:-1], torch.nan, dtype=torch.float64)
        first = (self.sum + self._signed) / (2 * n_first)
        second = (self.sum - self._signed) / (2 * (self.n_groups - n_first))
        centred = [half - half.mean(dim=1, keepdim=True) for half in (first, second)]
        return torch.cosine_similarity(centred[0], centred[1], dim=-1)

    def variance_shares(self) -> tuple[Float[Tensor, "*site"], Float[Tensor, "*site"]]:
        """Shares of the total variance between groups, and between emotions."""
        means, n = self.means, self.n_groups * len(self.emotions)
        grand = means.mean(dim=0).square().sum(dim=-1) * n
        total = (self._squares - grand).clamp(min=1e-30)
        emotion = means.square().sum(dim=(0, -1)) * self.n_groups - grand
        return (self._group_squares - grand) / total, emotion / total
