"""A short chaos campaign on this machine; a long one is `python -m tests.chaos --kills 200`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small import ROOT


def campaign(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tests.chaos", *map(str, args)], cwd=ROOT, capture_output=True,
                          text=True, timeout=900)


def test_an_unknown_number_of_ranks_is_refused_before_anything_starts(tmp_path: Path) -> None:
    done = campaign("--ranks", "2,5", "--folder", tmp_path / "runs")
    assert done.returncode == 2 and "--ranks takes numbers from 1 to 4" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_what_is_killed_at_named_points_and_at_random_moments_ends_in_the_same_bits(tmp_path: Path) -> None:
    done = campaign("--kills", 6, "--seed", 2, "--ranks", 2, "--folder", tmp_path / "runs", "--json", tmp_path / "json")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads((tmp_path / "json").read_text())
    assert said["kills"] >= 6 and said["at_named_points"] and said["by_signals"]
    assert said["compared_checkpoints"] and said["attempts"] > 1 and said["besides"]
    assert not (tmp_path / "runs").exists(), "what ended well is removed"
