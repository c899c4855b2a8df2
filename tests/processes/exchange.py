"""Every exchange between processes, each with a result that is known."""

import sys

import torch

from emotion_circuits import distributed

with distributed.joined():
    rank, n = distributed.rank(), distributed.size()
    samples = list(range(7))

    total, count = torch.full((2, 3), rank + 0.5, dtype=torch.float64).T, torch.tensor(rank)
    distributed.add(total, count)  # one of them not contiguous, the other an integer without dimensions
    assert torch.equal(total, torch.full((3, 2), n * (n - 1) / 2 + n / 2, dtype=torch.float64))
    assert int(count) == n * (n - 1) // 2

    found = distributed.merge({i: torch.arange(i) for i in distributed.share(samples)})
    assert all(torch.equal(found[i], torch.arange(i)) for i in samples) and len(found) == len(samples)
    assert distributed.merge({}) == {}

    asked = []
    answers = distributed.spread(lambda items: [asked.append(i) or {"square": i * i} for i in items], samples)
    assert answers == [{"square": i * i} for i in samples] and len(asked) < len(samples)
    assert distributed.spread(lambda items: [rank for _ in items], samples, alone=True) == [0] * len(samples)

    assert distributed.from_first({"from": rank}) == {"from": 0}
    assert distributed.least(10 - rank) == 11 - n
    assert distributed.collect(rank) == list(range(n))
    sys.stdout.write("as expected\n")
