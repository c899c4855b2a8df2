"""``emotion-circuits explore``: the explorer as a page of this machine's own."""

from __future__ import annotations

import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from emotion_circuits.cli import options as o
from emotion_circuits.cli import output


def explore(
    run: Annotated[Path, typer.Argument(help="The run folder.")] = Path("runs/demo"),
    port: Annotated[int, typer.Option(help="Where to listen, on this machine alone; 0 takes a free port.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    trust_remote_code: o.TrustRemoteCode = False,
) -> None:
    """Try a run's circuits out in the browser: prompts, strengths, nodes, edits. Ctrl-C ends it."""
    from emotion_circuits.explorer import Explorer
    from emotion_circuits.explorer.server import serve
    from emotion_circuits.pipeline import load_run

    def ready(address: str) -> None:
        output.console.print(f"explorer: {address}\nCtrl-C ends it", highlight=False, soft_wrap=True)
        if browser:
            webbrowser.open(address)

    with output.progress_bars(quiet=True):
        opened = load_run(run, trust_remote_code=trust_remote_code)
        explorer = Explorer(opened.model, opened)
    with suppress(KeyboardInterrupt):
        serve(explorer, port, ready=ready)
