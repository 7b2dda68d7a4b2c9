"""`make demo`: the whole main job ends with a detector that has learned, after a preemption."""

from __future__ import annotations

import json

import pytest
from small import verb


@pytest.mark.slow
def test_the_demo_learns_through_a_preemption_and_is_scored(tmp_path):
    printed = verb("demo", "--out", tmp_path, timeout=900).stdout
    assert "preemption: SIGUSR2 to rank 0" in printed
    assert f"page: {tmp_path / 'runs/demo-001/report.html'}" in printed
    found = json.loads(verb("status", tmp_path / "runs/demo-001", "--json").stdout)
    assert found["state"] == "done"
    assert found["attempt"] == 2
    assert found["evaluation"]["bbox_AP50"] > 0.4
    assert found["evaluation"]["segm_AP50"] > 0.4
    assert found["evaluation"]["bbox_APr"] is not None
