"""Progress bars, silent unless someone asked for them.

A library must not write to a terminal that it does not own, so bars appear only inside `shown`, which the command
line opens; notebooks may do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_bars: ContextVar[Any] = ContextVar("bars", default=None)


@contextmanager
def progress(label: str, total: int, *, shared: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar for ``total`` steps; yields the function that advances it.

    Args:
        label: what is done.
        total: how many steps.
        shared: the steps are shared among the processes of `emotion_circuits.distributed`; the bar is for the part
            of this one.
    """
    bars = _bars.get()
    if bars is None:
        yield lambda steps: None
        return
    from emotion_circuits import distributed

    task = bars.add_task(label, total=-(-total // distributed.size()) if shared else total)
    try:
        yield lambda steps: bars.advance(task, steps)
    finally:
        bars.remove_task(task)


@contextmanager
def shown(console: Any = None) -> Iterator[None]:
    """Show bars with count, rate and time left for everything run inside."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="dim")

    columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        token = _bars.set(bars)
        try:
            yield
        finally:
            _bars.reset(token)
