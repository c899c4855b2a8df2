"""Checks on a set of scenarios and events (SEV), anybody's: every problem, with its line and what to do.

1. Read each file line by line as plain JSON; a line that cannot be read is a finding, not the end (``rows``).
2. Check each record alone: fields, first person, emotion words, one event under two valences (``single``).
3. Check the records together: ids, near-duplicates within and between files, themes, length of the events by
   valence (``together``), and words that give the valence away (``leakage``).

An error makes an item unfit: a named emotion puts the answer into the prompt, a scenario of the training set in the
test set is a leak. A warning is about the set as a whole, or about a word that may be innocent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from emotion_circuits.data.validate import single, together
from emotion_circuits.data.validate.leakage import valence_leaks
from emotion_circuits.data.validate.report import CheckReport, Finding
from emotion_circuits.data.validate.rows import Row, named_sources, read, sev_layout
from emotion_circuits.errors import DataError
from emotion_circuits.types import VALENCES

__all__ = ["CheckReport", "Finding", "check"]


def check(
    sources: Any,
    *,
    valences: Iterable[str] = VALENCES,
    similarity: float = 0.6,
    balance: float = 0.10,
    extra_words: Iterable[str] = (),
    allow: Iterable[str] = (),
) -> CheckReport:
    """Check SEV files or records and report every problem.

    Files of keyword-free vignettes (``id``, ``emotion``, ``text``, ``neutral``) are recognised and checked by the same
    rules, without those on themes and valence. It knows English emotion words only, and it does not judge whether an
    event really is good or bad for the narrator: people do.

    Args:
        sources: a path, several paths, a list of records, or a mapping from a name to any of these.
        valences: the keys that ``event`` must have.
        similarity: Jaccard index of five-character pieces from which two texts count as near-duplicates, in (0, 1].
        balance: largest gap between the mean numbers of words by valence, as a share of the mean over all.
        extra_words: more roots for the list of emotion words (endings are matched; a leading ``=`` matches the word
            as written, a leading ``~`` makes it a warning).
        allow: words that the list must let pass, as they are written in the text.

    Returns:
        The findings and a few measures; ``report.ok`` is True when there is no error.

    Raises:
        DataError: ``sources`` is neither paths nor records, or ``similarity`` or ``balance`` is out of range.

    Example:
        >>> events = {"positive": "The bus was free.", "neutral": "The bus came.", "negative": "I was sad."}
        >>> record = {"skeleton_id": "a_0", "theme": "travel", "scenario": "I waited for the bus", "event": events}
        >>> report = check([record])
        >>> report.ok, [(finding.line, finding.field) for finding in report.findings]
        (False, [(1, 'event.negative')])

    Reference:
        Stage 0, data; Wang et al., arXiv 2510.11328.
    """
    _in_range(similarity, balance)
    sev = sev_layout(valences)
    words, allowed = single.word_list(extra_words), {word.casefold() for word in allow}
    files: dict[str, list[Row]] = {}
    findings: list[Finding] = []
    measures: dict[str, dict[str, float]] = {}
    for name, source in named_sources(sources):
        rows, unread = read(name, source, sev)
        accuracy, leaks = valence_leaks(rows)
        files[name] = rows
        findings += [*unread, *leaks, *together.lengths(rows, balance)]
        measures[name] = {f"words.{arm}": mean for arm, mean in together.mean_words(rows).items()}
        if accuracy is not None:
            measures[name]["valence_from_words"] = accuracy
    everything = [row for rows in files.values() for row in rows]
    for row in everything:
        findings += [*single.fields(row), *single.first_person(row), *single.identical_arms(row)]
        findings += single.emotion_words(row, words, allowed)
    findings += together.duplicate_ids(everything)
    findings += together.near_duplicates(everything, similarity)
    findings += together.themes(files)
    order = {name: i for i, name in enumerate(files)}
    findings.sort(key=lambda finding: (order[finding.file], finding.line))
    return CheckReport(tuple(findings), {name: len(rows) for name, rows in files.items()}, measures)


def _in_range(similarity: float, balance: float) -> None:
    if not 0 < similarity <= 1:
        raise DataError(f"similarity was {similarity}; expected a Jaccard index above 0 and up to 1, such as 0.6")
    if balance < 0:
        raise DataError(f"balance was {balance}; expected a share of the mean length, such as 0.1")
