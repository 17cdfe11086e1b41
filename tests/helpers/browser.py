"""Pages in a real browser; tests skip where there is none."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Opens a file in a new browser: what the document is in the end, and what was logged."""
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    browser = next((path for path in found if path), None)
    if browser is None:
        pytest.skip("no chromium, chromium-browser or google-chrome here")

    def open_page(path, width):
        profile = tmp_path_factory.mktemp("profile")
        flags = [*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},900", "--dump-dom"]
        done = subprocess.run([browser, *flags, path.as_uri()], capture_output=True, text=True, timeout=120)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return open_page


def probed(page: Path, copy: Path, browse, width: int, probe: str):
    """What a script finds in a frame of a width; windows are not narrower than 500 pixels.

    Args:
        page: is not changed; without its content policy, a copy of it runs the script.
        copy: where the copy goes.
        probe: ends in ``parent.document.title = JSON.stringify(...)``.
    """
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text(encoding="utf-8"))
    text = text.replace("</body>", f"<script>{probe}</script></body>")
    frame = f'<iframe style="width:{width}px;height:800px;border:0" srcdoc="{html.escape(text)}"></iframe>'
    copy.write_text(f"<!DOCTYPE html><title></title>{frame}", encoding="utf-8")
    document, log = browse(copy, width + 100)
    assert log == []
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", document, re.DOTALL).group(1)))
