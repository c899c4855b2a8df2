"""What happens to pages while the site is built.

Equations become MathML: browsers draw it themselves, without a script from elsewhere. The word ``notest`` behind a
fence is for the tests, and is taken away.
"""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

_FENCE = re.compile(r"^```(\w+) notest$", re.MULTILINE)
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by MkDocs with each page's text."""
    return _FENCE.sub(r"```\1", markdown)


def on_page_content(content: str, **_: object) -> str:
    """Called by MkDocs with each page's HTML."""
    content = _DISPLAY.sub(lambda m: f'<div class="equation">{_mathml(m[1], "block")}</div>', content)
    return _INLINE.sub(lambda m: _mathml(m[1], "inline"), content)


def _mathml(latex: str, display: str) -> str:
    return convert(html.unescape(latex).strip(), display=display)
