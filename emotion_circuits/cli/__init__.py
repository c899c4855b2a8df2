"""The command line: ``emotion-circuits``.

Exit codes: 0 done; 1 a check failed; 2 bad input, with one line that says what and what to do; 130 interrupted.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point: run the command, and turn the package's own errors into one line."""
    from emotion_circuits.cli.app import app
    from emotion_circuits.cli.output import errors
    from emotion_circuits.errors import EmotionCircuitsError, PeerError

    try:
        app()
    except PeerError as error:
        if not error.told:
            errors.print(f"[bold red]error:[/] {_plain(error)}", soft_wrap=True, highlight=False)
        sys.exit(2)
    except EmotionCircuitsError as error:
        errors.print(f"[bold red]error:[/] {_plain(error)}", soft_wrap=True, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        errors.print("stopped; the same command goes on where this one was", highlight=False)
        sys.exit(130)


def _plain(error: BaseException) -> str:
    from rich.markup import escape

    text = " ".join((str(error), *(f"({note})" for note in getattr(error, "__notes__", ()))))
    return escape(" ".join(text.split()))
