"""``emotion-circuits explore``: the explorer as a page of this machine's own."""

from __future__ import annotations

import html
import webbrowser
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
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
            webbrowser.open(_redirect(Path(private), address).as_uri())

    with output.progress_bars(quiet=True):
        opened = load_run(run, trust_remote_code=trust_remote_code)
        explorer = Explorer(opened.model, opened)
    with suppress(KeyboardInterrupt), TemporaryDirectory(prefix="emotion-circuits-") as private:
        serve(explorer, port, ready=ready)


def _redirect(folder: Path, address: str) -> Path:
    """A file that leads the browser to the address, for this user's eyes alone.

    The address holds the token, and everybody on the machine can read the arguments that a browser is started with.
    """
    path, target = folder / "explorer.html", html.escape(address)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={target}">'
        f'<title>Explorer</title><a href="{target}">Open the explorer</a>\n',
        encoding="utf-8",
    )
    return path
