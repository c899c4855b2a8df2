"""Benchmarks of the attribution engine: ``python -m benchmarks [name ...]``.

Each compares a fast path with the slow one that it replaces, in one process on one machine: pairs of runs, one after
the other, so that whatever else the machine does falls on both. The figure is the median of the pairs' ratios. The
rivals do what ``method.md`` says in the plainest way that a careful person would write, batched over prompts, without
logits that nobody reads, and with the same model object; where a rival is too slow to be run whole, it is run on a
part, and the part is stated.
"""
