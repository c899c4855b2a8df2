"""Checks on the records together: ids, near-duplicates, themes, length of the events by valence."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import chain

from emotion_circuits.data.validate.report import Finding
from emotion_circuits.data.validate.rows import Row, grouped, words_of

MIN_RECORDS = 5  # below this a mean or a share says nothing
_PIECE = 5  # characters
_SHARED = 4  # the k of ``similar``


def duplicate_ids(rows: list[Row]) -> Iterator[Finding]:
    """An id used twice: an error in one file, a warning between files."""
    first: dict[str, Row] = {}
    for row in rows:
        name = row.record.get(row.layout.id)
        if not isinstance(name, str) or not name.strip():
            continue
        other = first.setdefault(name, row)
        if other is not row:
            message = f"{name!r} is also the id at {other.file}:{other.line}; give each record its own"
            yield row.finding("duplicate_id", row.layout.id, message, "error" if other.file == row.file else "warning")


def near_duplicates(rows: list[Row], similarity: float) -> Iterator[Finding]:
    """Scenarios against scenarios and events against events; never the texts of one record against each other."""
    for of_lead in (True, False):
        places = [(row, path) for row in rows for path in row.texts if (path in row.layout.lead) == of_lead]
        owners = [id(row) for row, _ in places]
        for i, j, jaccard in similar([row.texts[path] for row, path in places], owners, similarity):
            (row, path), (other, other_path) = places[i], places[j]
            message = (
                f"near-duplicate ({jaccard:.2f}) of {other_path} at {other.file}:{other.line}; "
                "write another text, or take one of the two records out"
            )
            yield row.finding("near_duplicate", path, message, "error" if of_lead or jaccard == 1 else "warning")


def similar(texts: list[str], owners: list[int], least: float) -> Iterator[tuple[int, int, float]]:
    """For each text the most similar earlier text of another owner, if their Jaccard index is ``least`` or more.

    The sets compared are those of all pieces of five characters. Exact: two sets that share ``m = ceil(least * n)``
    of n pieces share k of the first ``n - m + k`` in any fixed order. With the rarest pieces first, the lists of
    texts to look through are short, and few texts share k of them.

    Yields:
        Index of the text, index of the earlier one, Jaccard index.
    """
    pieces = [_pieces(text) for text in texts]
    frequency = Counter(piece for of_text in pieces for piece in of_text)
    index: dict[str, list[int]] = defaultdict(list)
    for i, mine in enumerate(pieces):
        rarest = sorted(mine, key=lambda piece: (frequency[piece], piece))
        least_shared = math.ceil(least * len(mine) - 1e-9)
        prefix = rarest[: len(mine) - least_shared + _SHARED]
        best, where = 0.0, -1
        for j, n in Counter(chain.from_iterable(index[piece] for piece in prefix)).items():
            if n < min(_SHARED, least_shared) or owners[j] == owners[i]:
                continue
            shared = len(mine & pieces[j])
            jaccard = shared / (len(mine) + len(pieces[j]) - shared)
            if (jaccard, -j) > (best, -where):
                best, where = jaccard, j
        if where >= 0 and best >= least:
            yield i, where, best
        if best < 1:  # an identical text has the same neighbours
            for piece in prefix:
                index[piece].append(i)


def _pieces(text: str) -> set[str]:
    plain = f" {' '.join(words_of(text)) or text.strip()} "
    return {plain[i : i + _PIECE] for i in range(max(1, len(plain) - _PIECE + 1))}


def themes(files: Mapping[str, list[Row]]) -> Iterator[Finding]:
    """The same themes in every SEV file, about as many records of each, and as many events of each valence."""
    everywhere = {row.group for rows in files.values() for row in rows if row.layout.lead}
    for rows in filter(None, files.values()):
        groups, first = grouped(rows), rows[0]
        for missing in sorted(everywhere - groups.keys()) if first.layout.lead else ():
            message = f"no record of theme {missing!r}, which another file has; use the same themes in all files"
            yield first.finding("theme_balance", first.layout.group, message, "warning")
        most = max(map(len, groups.values()))
        for name, group in groups.items():
            field = group[0].layout.group
            if most > 1.5 * len(group):
                message = (
                    f"{len(group)} records of {name!r} but {most} of another; write more, or use fewer of that one"
                )
                yield group[-1].finding("theme_balance", field, message, "warning")
            counts = {arm: sum(arm in row.texts for row in group) for arm in group[0].layout.arms}
            if len(set(counts.values())) > 1:
                gap = next(row for row in group if not row.texts.keys() >= set(row.layout.arms))
                message = f"unequal numbers of texts in {name!r}, {counts}; complete this record or take it out"
                yield gap.finding("theme_balance", field, message)


def mean_words(rows: list[Row]) -> dict[str, float]:
    """Mean number of words of each arm."""
    lengths: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        for arm in row.layout.arms:
            if arm in row.texts:
                lengths[arm].append(_length(row, arm))
    return {arm: sum(of_arm) / len(of_arm) for arm, of_arm in lengths.items()}


def _length(row: Row, arm: str) -> int:
    return len(row.texts.get(arm, "").split())


def lengths(rows: list[Row], balance: float) -> Iterator[Finding]:
    """Arms whose mean numbers of words lie too far apart, in the file or in one theme."""
    for name, group in [("the whole file", rows), *grouped(rows).items()]:
        means = mean_words(group)
        if len(group) < MIN_RECORDS or not means:
            continue
        longest, shortest = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
        if means[longest] - means[shortest] <= balance * sum(means.values()) / len(means):
            continue
        worst = max(group, key=lambda row: _length(row, longest) - _length(row, shortest))
        message = (
            f"in {name}, {longest} has {means[longest]:.1f} words on average and {shortest} {means[shortest]:.1f}, "
            f"more than {balance:.0%} apart; shorten or lengthen some texts, those of this line first"
        )
        yield worst.finding("length_balance", longest, message, "warning")
