"""The report: one HTML file that shows a whole run, works without a network, and can be mailed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

# Lazy, because the figures' library takes a moment to load.
__getattr__, __dir__, __all__ = lazy_loader.attach(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__, submod_attrs={"data": ["ReportData"], "write": ["write_report"]}
)

if TYPE_CHECKING:
    from emotion_circuits.report.data import ReportData
    from emotion_circuits.report.write import write_report
