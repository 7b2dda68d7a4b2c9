"""tools/newer_slurm: an installed newer Slurm is used; where none is available, it reports that and fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def newer_slurm(root: Path, folder: Path, version: str, **env: str) -> subprocess.CompletedProcess[str]:
    fake = folder / "slurmctld"
    fake.write_text(f"#!/bin/sh\necho slurm-wlm {version}\n")
    fake.chmod(0o755)
    words = [root / "tools/newer_slurm", sys.executable, "-c", "print('it ran')"]
    return subprocess.run(words, env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **env},
                          capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("version", ["23.02.7", "25.11.2"])
def test_a_newer_slurm_that_exists_is_used(root: Path, tmp_path: Path, version: str) -> None:
    done = newer_slurm(root, tmp_path, version, ECM_CLUSTER_SLURM_ROOT=str(tmp_path / "none"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "it ran\n", "")
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_without_a_mirror_it_fails_and_runs_nothing(root: Path, tmp_path: Path) -> None:
    where = tmp_path / "slurm"
    done = newer_slurm(root, tmp_path, "22.05.8", ECM_CLUSTER_SLURM_ROOT=str(where),
                       ECM_CLUSTER_DEBIAN_MIRROR=(tmp_path / "no-mirror").as_uri())
    assert done.returncode == 2 and "it ran" not in done.stdout
    assert "newer_slurm: debootstrap " in done.stderr  # is missing, or failed
    assert not where.exists(), "half of a root would be taken for a whole one"
