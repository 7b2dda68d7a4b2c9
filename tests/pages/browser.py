"""Chromium without a window: what it shows of a page, and what it complains about."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), "")
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (Debian package: chromium)")
LIGHT, DARK = 1, 0
# a script of the test's own in a copy of the page, which therefore has no policy: what is wider than the window
MEASURE = """<script>
const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll") && !e.closest("svg")
    && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + "." + e.className);
parent.postMessage([innerWidth, document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor,
    wide.slice(0, 9).join(" ")].join("|"), "*");
</script>"""
# a frame, as a window cannot be as narrow as a phone
FRAME = """<!doctype html><style>body {{ margin: 0 }} iframe {{ border: 0; width: {width}px; height: 900px }}</style>
<script>onmessage = e => document.documentElement.dataset.measured = e.data</script>
<iframe srcdoc="{page}"></iframe>"""


def chromium(page: Path, *flags: str, width: int = 1280, height: int = 900, scheme: int = LIGHT) -> tuple[str, str]:
    """Standard output, and what the page's console has (errors, refused loads)."""
    done = subprocess.run([CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                           "--disable-background-networking", "--disable-component-update", "--no-first-run",
                           f"--user-data-dir={page.parent / 'chromium'}",
                           f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={width},{height}",
                           "--virtual-time-budget=3000", "--enable-logging=stderr", "--v=0", *flags, page.as_uri()],
                          capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def measured(page: Path, width: int, scheme: int = LIGHT) -> tuple[int, int, str, str]:
    """Width of the window, width that the page takes, color of its background, elements that stick out."""
    own = re.sub(r"<meta http-equiv=.*?>", "", page.read_text()).replace("</body>", MEASURE + "</body>")
    frame = page.with_name(f"measured-{page.name}")
    frame.write_text(FRAME.format(width=width, page=escape(own)))
    dom, _ = chromium(frame, "--dump-dom", width=max(width, 500), scheme=scheme)
    found = re.search(r'data-measured="(\d+)\|(\d+)\|(.*?)\|(.*?)"', dom)
    assert found, dom[:500]
    return int(found[1]), int(found[2]), found[3], found[4]
