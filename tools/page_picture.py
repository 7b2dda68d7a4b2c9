"""Take the picture of a page for the README: ``python tools/page_picture.py OUT.png PAGE.html [HEIGHT]``.

The page is that of a run of the demo (``python -m ecm_cluster.demo``), scored at each epoch
(``python -m ecm_cluster.evaluate RUN --checkpoints all``). Needs Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTH, HEIGHT = 1100, 1420


def main(out: str, page: str, height: str = str(HEIGHT)) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome") or sys.exit("Chromium is not installed")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                        f"--user-data-dir={profile}", "--blink-settings=preferredColorScheme=1",
                        f"--window-size={WIDTH},{height}", f"--screenshot={Path(out).absolute()}",
                        Path(page).absolute().as_uri()], check=True, capture_output=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
