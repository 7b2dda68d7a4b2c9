"""A short chaos campaign on a real Slurm; a long one is `python -m tests.chaos --where slurm --kills 50`."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos import campaign, places
from slurm_harness import SlurmCluster


def test_what_is_killed_on_slurm_ends_in_the_same_bits(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.env[name])
    tally = campaign.run(tmp_path / "runs", places.OnSlurm(slurm), kills=4, seed=5, ranks=[2])
    assert tally.wrong == [], "\n".join(run["detail"] for run in tally.wrong)
    assert tally.kills >= 4 and tally.total("attempts") > 1 and tally.total("compared")
