"""Writing figures to files: HTML by Plotly itself, PDF, SVG, PNG and the like through Kaleido and Chromium."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from emotion_circuits.artefacts import replacing, write_text
from emotion_circuits.errors import ArtefactError, DeviceError

IMAGES = ("pdf", "svg", "png", "jpg", "jpeg", "webp")


def save_figure(
    figure: go.Figure,
    path: str | Path,
    *,
    width: float | int | None = None,
    height: float | int | None = None,
    scale: float | int = 2,
) -> Path:
    """Write a figure; the ending of the path says what: ``.pdf``, ``.svg``, ``.png``, ``.html`` ...

    A PDF has its fonts embedded. An HTML file holds Plotly and needs no network.

    Args:
        figure: any figure.
        path: where to.
        width: in pixels of 1/96 inch; the figure's own, or 800.
        height: the same; the figure's own, or 500.
        scale: pixels of a bitmap per pixel of the figure.

    Returns:
        The path.

    Raises:
        ArtefactError: the ending is unknown, or the file cannot be written.
        DeviceError: Kaleido or Chromium is missing or does not start.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind == "html":
        write_text(path, figure.to_html(include_plotlyjs=True, full_html=True))
    elif kind in IMAGES:
        wanted = {"width": width or figure.layout.width or 800, "height": height or figure.layout.height or 500}
        # Chromium cuts what lies at the end of a printed page that is not a whole number of pixels high.
        size = {name: round(float(value)) for name, value in wanted.items()}
        _render(figure, path, kind, {"format": kind, "scale": 1 if kind in ("pdf", "svg") else scale, **size})
    else:
        raise ArtefactError(f"cannot save a figure as {path.name!r}; use one of .html, .{', .'.join(IMAGES)}")
    return path


def _render(figure: go.Figure, path: Path, kind: str, options: dict) -> None:
    try:
        import kaleido
        from choreographer.errors import ChromeNotFoundError
    except ImportError as error:
        raise DeviceError(
            f"writing .{kind} needs Kaleido, which is not installed: pip install 'emotion-circuits[figures]'; "
            "or save the figure as .html"
        ) from error
    with replacing(path) as temporary:
        # The writer picks the format from the ending too, and looks for MathJax on the network unless told not to.
        held = temporary.with_name(f"{temporary.name}.{kind}")
        try:
            kaleido.write_fig_sync(figure, path=held, opts=options, kopts={"mathjax": False})
            held.replace(temporary)
        except ChromeNotFoundError as error:
            raise DeviceError(
                f"writing .{kind} needs Chrome or Chromium, and none was found; install one (e.g. apt-get install "
                "chromium) or name it in the environment variable BROWSER_PATH; or save the figure as .html"
            ) from error
        except OSError:
            raise
        except Exception as error:  # a browser that was found but cannot start raises errors of many kinds
            raise DeviceError(
                f"Chromium could not draw {path.name}: {str(error) or type(error).__name__}; try it again, or save the "
                "figure as .html"
            ) from error
        finally:
            held.unlink(missing_ok=True)
