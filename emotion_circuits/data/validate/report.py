"""What a check returns: findings that name the line, and the report that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Finding:
    """One problem, where it is and what to do.

    Attributes:
        check: which check found it.
        file: the file's path as given, or the name of the set of records.
        line: counted from 1; for records that do not come from a file, their position; 0 for a whole file.
        field: such as ``event.positive``; empty when the whole line is meant.
        message: what is wrong and what to do.
        severity: ``error`` or ``warning``.
    """

    check: str
    file: str
    line: int
    field: str
    message: str
    severity: str = "error"

    def __str__(self) -> str:
        where = ": ".join(filter(None, (f"{self.file}:{self.line}", self.severity, self.field)))
        return f"{where}: {self.message} [{self.check}]"


@dataclass(frozen=True)
class CheckReport:
    """What ``check`` found.

    Attributes:
        findings: every problem, by file and line.
        n_records: records read, by file.
        measures: by file: ``valence_from_words``, the accuracy of a bag of words (only for SEV files with enough
            records), and ``words.<field>``, the mean number of words.
    """

    findings: tuple[Finding, ...]
    n_records: Mapping[str, int]
    measures: Mapping[str, Mapping[str, float]]

    @property
    def ok(self) -> bool:
        """True when there is no error; warnings may remain."""
        return all(finding.severity != "error" for finding in self.findings)

    @property
    def clean(self) -> bool:
        """True when nothing was found, not even a warning."""
        return not self.findings

    def to_frame(self) -> pd.DataFrame:
        """The findings, one row each."""
        import pandas as pd

        columns = list(Finding.__dataclass_fields__)
        return pd.DataFrame([asdict(finding) for finding in self.findings], columns=columns)

    def __str__(self) -> str:
        errors = sum(finding.severity == "error" for finding in self.findings)
        sizes = ", ".join(f"{file}: {n} records" for file, n in self.n_records.items())
        return "\n".join(
            [f"{sizes}; {errors} errors, {len(self.findings) - errors} warnings", *map(str, self.findings)]
        )
