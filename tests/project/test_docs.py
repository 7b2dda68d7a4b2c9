"""The documentation site builds without warnings, and its pages load nothing from other hosts."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import former_version
import pytest
from small import ROOT

MKDOCS = ROOT / ".venv-docs" / "bin" / "mkdocs"


def test_the_example_of_the_api_page_reads_a_run_of_an_earlier_version(tmp_path, monkeypatch):
    run = former_version.complete(tmp_path)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/reference/api/runs.md").read_text()
    found: dict[str, Any] = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1].replace('"first"', repr(run.name)), found)
    assert found["newest"].iteration == 21 and found["losses"] and found["ends"][-1]["cause"] == "complete"


def test_the_architecture_page_lists_all_rooms_on_their_floors():
    from project import test_layout

    page = (ROOT / "docs/architecture.md").read_text().split("## Rooms and floors")[1].split("\n## ")[0]
    shown = {int(floor): set(re.findall(r"`([\w.]+)`:", rooms))
             for floor, rooms in re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)}
    assert shown == {floor: {room.replace("ecm_cluster.", "") for room in rooms}
                     for floor, rooms in enumerate(test_layout.FLOORS)}


def test_the_glossary_has_at_most_25_entries():
    page = (ROOT / "docs/architecture.md").read_text().split("## Glossary")[1].split("\n## ")[0]
    assert 15 < len(re.findall(r"^\| (?!word|---)", page, re.MULTILINE)) <= 25


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
