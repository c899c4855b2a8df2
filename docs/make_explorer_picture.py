"""Make the picture of the explorer, as a browser shows it: part of ``make figures``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import visit  # noqa: E402 (the tests' own Chromium)


def main(folder: str) -> None:
    """Explore the run in ``folder``, look at its best head, and keep what is seen."""
    command = [sys.executable, "-m", "emotion_circuits", "explore", folder, "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            address = server.stdout.readline().split()[-1]
            with visit(width=1360, height=1010, device_scale_factor=1.5) as seen:
                seen.page.goto(address)
                seen.page.locator(".ec-head").last.click()
                seen.page.wait_for_selector(".ec-facts h4")
                seen.page.mouse.move(0, 0)
                seen.page.screenshot(path=ROOT / "docs/images/explorer.png")
        finally:
            server.terminate()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
