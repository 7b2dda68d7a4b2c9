"""The documentation site builds without warnings, and its pages load nothing from other hosts."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from small import ROOT

MKDOCS = ROOT / ".venv-docs" / "bin" / "mkdocs"


@pytest.mark.slow
@pytest.mark.skipif(not MKDOCS.exists(), reason="mkdocs is not installed; `make docs` installs it")
def test_the_site_builds_without_warnings_and_loads_nothing_from_other_hosts(tmp_path):
    """``--strict`` makes each broken link, missing anchor and page outside of the navigation an error."""
    built = subprocess.run([MKDOCS, "build", "--strict", "--quiet", "--site-dir", tmp_path], cwd=ROOT, check=False,
                           env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert built.returncode == 0 and not built.stderr, built.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert {"index.html", "architecture.html", "contributing.html"} <= {page.name for page in pages}
    for page in pages:
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text(encoding="utf-8")):
            address = re.search(r"(?:src|href)=\"?([^\"\s>]+)", tag)
            if address and not address[1].startswith(("data:", "#")):
                assert "//" not in address[1], f"{page.name}: {tag}"
                assert _target(tmp_path, page, address[1]).exists(), f"{page.name}: {tag}"


def _target(site: Path, page: Path, address: str) -> Path:
    path = address.partition("#")[0].partition("?")[0]
    return site / path.lstrip("/") if path.startswith("/") else page.parent / path
