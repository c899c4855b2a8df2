"""The explorer in Jupyter: an anywidget that shows `messages.show` and hands messages to `messages.answer`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.explorer import messages
from emotion_circuits.explorer.extra import needs

with needs("the explorer's widget"):
    import anywidget
    import traitlets

if TYPE_CHECKING:
    from emotion_circuits.explorer.explorer import Explorer

STATIC = Path(__file__).parent / "static"


class ExplorerWidget(anywidget.AnyWidget):
    """An explorer's widget; it also follows what is done to the explorer from Python.

    Args:
        explorer: what is shown.
    """

    _esm = STATIC / "explorer.js"
    _css = STATIC / "explorer.css"
    about = traitlets.Dict().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)
    circuit = traitlets.Dict().tag(sync=True)
    reply = traitlets.Dict().tag(sync=True)
    node = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    status = traitlets.Dict().tag(sync=True)

    def __init__(self, explorer: Explorer) -> None:
        super().__init__(about=messages.about(explorer), **messages.show(explorer))
        self._explorer, self._answering = explorer, False
        self.on_msg(self._answer)
        explorer.watch(self._follow)

    def _answer(self, widget: Any, message: object, buffers: object) -> None:
        self._answering = True
        try:
            self._set(messages.answer(self._explorer, message))
        finally:
            self._answering = False

    def _follow(self) -> None:
        # A message's own changes are shown when it is answered.
        if not self._answering:
            self._set(messages.show(self._explorer))

    def _set(self, parts: messages.Parts) -> None:
        with self.hold_sync():
            for name, value in parts.items():
                self.set_trait(name, value)
