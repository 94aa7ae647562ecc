"""A real headless Chromium for pages that the tests made: its layout, its console and its pictures."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from html import escape, unescape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

LIMIT_S = 60.0

_FRAME = """<!DOCTYPE html><html><body style="margin:0">
<iframe srcdoc="{page}" style="border:0;height:900px;width:{width}px"></iframe><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  document.documentElement.setAttribute("data-probe", JSON.stringify({{
    width: root.clientWidth, overflow: root.scrollWidth - root.clientWidth, text: page.body.innerText,
    title: page.title,
    pictures: [...page.querySelectorAll("svg")].map((each) => {{
      const box = each.getBoundingClientRect();
      return [each.getAttribute("aria-label"), box.width, box.height];
    }}),
  }}));
}});
</script></body></html>"""
"""The page as it is, in a frame (a window has a least width), and a script that looks at it from outside."""


class Layout(NamedTuple):
    """The browser's layout of a page, in CSS pixels."""

    width: int
    """The width for the page: the window without scroll bars."""
    overflow: int
    """The page's width beyond `width`."""
    text: str
    """The visible text of the page."""
    title: str
    pictures: list[tuple[str, float, float]]
    """Label, width, height; both are 0 for a picture that is not shown."""

    @property
    def shown(self) -> list[str]:
        return [label for label, width, height in self.pictures if width > 100 and height > 50]


def layout(page: bytes, width: int) -> Layout:
    """Return the browser's layout of `page` in a window of that width."""
    frame = _FRAME.format(page=escape(page.decode()), width=width)
    dom, _ = _run(frame.encode(), "--window-size=1280,900", "--hide-scrollbars", "--dump-dom")
    found = re.search(r'data-probe="([^"]*)"', dom)
    assert found is not None, dom[:2000]
    return Layout(**json.loads(unescape(found[1])))


def paint(page: bytes, width: int, height: int, into: Path, start: Sequence[str] = ()) -> list[str]:
    """Take a picture of the unchanged `page`, and return the messages on the browser's console.

    A command `start` starts the browser, which then has its shared memory in memfds and not in files.
    """
    _, log = _run(page, f"--window-size={width},{height}", "--hide-scrollbars", f"--screenshot={into}", start=start)
    return [line for line in log.splitlines() if "CONSOLE" in line]


def _run(page: bytes, *flags: str, start: Sequence[str] = ()) -> tuple[str, str]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs the package chromium")
    with TemporaryDirectory(prefix="mshare-test-browser-") as folder:
        file = Path(folder, "page.html")
        file.write_bytes(page)
        process = subprocess.Popen(
            [
                *start,
                program,
                *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
                *("--disable-component-update", "--disable-sync"),
                *(() if start else ("--disable-dev-shm-usage",)),
                *("--enable-logging=stderr", f"--user-data-dir={folder}/profile"),
                *flags,
                file.as_uri(),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "HOME": folder},
            start_new_session=True,
        )
        try:
            out, log = process.communicate(timeout=LIMIT_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        assert process.returncode == 0, log.decode(errors="replace")
        return out.decode(), log.decode(errors="replace")
