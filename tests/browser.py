"""A real headless Chromium for tests: no profile, no requests but the page's own, complaints collected.

`chromium()` skips where there is no browser. Pictures that a test takes are kept in ``test-artefacts/``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

ARTEFACTS = Path(__file__).resolve().parents[1] / "test-artefacts"
_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@dataclass
class Visit:
    """A page that is looked at, and what it did.

    Attributes:
        page: Playwright's page.
        problems: console errors and uncaught exceptions.
        requests: every address that was asked for.
    """

    page: Any
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def hosts(self) -> set[str | None]:
        """The hosts that were asked for anything."""
        return {urlsplit(url).hostname for url in self.requests if not url.startswith(("data:", "blob:", "about:"))}

    def picture(self, name: str) -> Path:
        """Keep a picture of the whole page."""
        ARTEFACTS.mkdir(exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        self.page.screenshot(path=path, full_page=True)
        return path


@contextmanager
def visit(width: int = 1280, height: int = 1000, **options: Any) -> Iterator[Visit]:
    """An empty page in a browser of its own; ``options`` are those of Playwright's ``new_page``.

    Skips where Playwright or Chromium is missing.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=executable, args=list(_QUIET))
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        page.set_default_timeout(120_000)  # milliseconds, for slow and busy machines
        seen = Visit(page)
        page.on("console", lambda m: seen.problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: seen.problems.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        try:
            yield seen
        finally:
            browser.close()


def low_contrast(page: Any, root: str = "body", least: float = 4.5) -> list[str]:
    """Texts under ``root`` whose contrast with what lies behind them is below WCAG's AA."""
    return page.evaluate(_CONTRAST, [root, least])


def unlabelled(page: Any, root: str = "body") -> list[str]:
    """Controls under ``root`` without an accessible name."""
    return page.evaluate(_UNLABELLED, root)


_CONTRAST = """([root, least]) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour, behind) => {
    canvas.fillStyle = `rgb(${behind})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  };
  const luminance = (c) => {
    const [r, g, b] = c.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const backgroundOf = (e) => {
    const chain = [];
    for (; e; e = e.parentElement) chain.unshift(getComputedStyle(e).backgroundColor);
    return chain.reduce((behind, colour) => rgba(colour, behind), [255, 255, 255]);
  };
  const wrong = [];
  for (const e of document.querySelector(root).querySelectorAll("*")) {
    const own = [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent.trim()).join(" ").trim();
    if (!own || !e.checkVisibility() || ["title", "option", "noscript"].includes(e.tagName.toLowerCase())) continue;
    const style = getComputedStyle(e), behind = backgroundOf(e);
    const [a, b] = [luminance(rgba(e instanceof SVGElement ? style.fill : style.color, behind)), luminance(behind)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least) wrong.push(`${ratio.toFixed(2)}: ${own.slice(0, 60)}`);
  }
  return wrong;
}"""

_UNLABELLED = """(root) => [...document.querySelector(root).querySelectorAll(
    "button, input, select, textarea, fieldset, [role=button], [role=group]")]
  .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || (e.labels && e.labels.length)))
  .map((e) => e.outerHTML.slice(0, 120))"""
