"""Every config family that mmdet ships is represented and has its row; some of them are trained here, end to end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shipped_configs import families, shrinking, table
from shipped_configs.families import FAMILIES, NO_FAMILY
from small import ROOT, await_state, logs_of, verb, wait_until

from ecm_cluster.mmconfig import config
from ecm_cluster.rundir.run import Run

HOME = config.find("mmdet::faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py").parent.parent
EVERY = [f"{family}/{name}" for family, names in FAMILIES.items() for name in names]


@pytest.mark.skipif(not (HOME / "rfnext").is_dir(), reason="the families are those of mmdet 2.28, which has more")
def test_every_family_that_mmdet_ships_is_represented():
    shipped = {folder.name for folder in HOME.iterdir() if any(folder.glob("*.py"))}
    assert shipped == set(FAMILIES) | set(NO_FAMILY) - ({"_base_", "common"} - shipped)
    assert [name for name in EVERY if not (HOME / f"{name}.py").is_file()] == []


def test_the_page_has_a_row_for_every_representative():
    page = (ROOT / "docs/reference/shipped-configs.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| `([^`]+)` \|", page, re.MULTILINE)
    assert [f"{family.strip()}/{name}" for family, name in rows] == EVERY


def test_a_config_that_is_not_a_representative_is_refused_with_the_families():
    with pytest.raises(SystemExit, match="nosuch is not among the families.*yolox"):
        families.chosen(["nosuch"])


def _keys(value: object) -> object:
    """The shape of a config: keys, kinds of parts, and lengths of lists of parts; no numbers."""
    if isinstance(value, dict):
        return {key: _keys(inner) for key, inner in value.items() if key not in ("init_cfg", "total_epochs")}
    if isinstance(value, (list, tuple)) and any(isinstance(inner, dict) for inner in value):
        return [_keys(inner) for inner in value]
    return value if isinstance(value, str) and "/" not in value else None


@pytest.mark.parametrize("which", ["htc/htc_r50_fpn_1x_coco", "yolox/yolox_tiny_8x8_300e_coco"])
def test_a_config_made_small_has_the_same_parts_in_the_same_order(which):
    whole = config.read(f"mmdet::{which}.py")
    small, _ = shrinking.shrink(whole, *which.split("/"), "/somewhere")
    for part in ("model", "data", "optimizer", "lr_config", "runner", "custom_hooks"):
        assert set(_flat(_keys(whole.get(part)))) == set(_flat(_keys(small.get(part)))), part


def _flat(value: object, key: str = "") -> list[str]:
    if isinstance(value, dict):
        return [line for name, inner in value.items() for line in _flat(inner, f"{key}.{name}")]
    if isinstance(value, list):
        return [line for at, inner in enumerate(value) for line in _flat(inner, f"{key}.{at}")]
    return [f"{key}={value}"]


def tried(out: Path, *words: str) -> dict[str, dict[str, Any]]:
    """The rows that the script leaves for these configs."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.shipped_configs", *words, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=900,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def short_form(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The configs of the short form, tried one after the other by one call."""
    out = tmp_path_factory.mktemp("short")
    return out, tried(out, *families.SHORT, families.BY_ITERATIONS, "--keep")


@pytest.mark.slow
@pytest.mark.parametrize("which", [*families.SHORT, families.BY_ITERATIONS])
def test_a_shipped_config_trains_as_mmdet_resumes_exactly_and_scores_as_mmdet(which, short_form):
    out, rows = short_form
    row = rows[which]
    logs = "\n".join(f"== {p}\n{p.read_text()[-2000:]}" for p in sorted((out / which.replace("/", ".")).glob("*.log")))
    trains, as_mmdet, resumes, scores, notes = table.cells_of(row)
    assert (as_mmdet, resumes) == ("identical", "identical"), f"{notes}\n{logs}"
    assert int(trains) >= shrinking.ITERATIONS
    assert scores.startswith("identical") and " 0 not zero" not in scores, f"{scores} {notes}\n{logs}"


@pytest.mark.slow
def test_the_processes_that_a_user_starts_do_what_the_forked_ones_did(short_form, tmp_path):
    from comparing import bits, state_in
    from shipped_configs import product

    out, rows = short_form
    folder = out / families.BY_ITERATIONS.replace("/", ".")
    verb("submit", "--config", folder / "small.py", *product.FLAGS, "--name", "real", "--runs-dir", tmp_path)
    run = Run(tmp_path / "real")
    wait_until(lambda: (run.heartbeat(1) or {}).get("iteration", 0) >= 1, "training", look=lambda: logs_of(run))
    os.kill(next(event["pid"] for event in run.events() if event.kind == "start"), signal.SIGTERM)
    assert await_state(run, "done")["attempt"] == 2, "the training ended before the signal"
    forked = Run(folder / "runs/straight")
    ends = [state_in(one.checkpoints_dir / str(one.completion())) for one in (forked, run)]
    for key in ends[0]:
        assert bits(ends[0][key]) == bits(ends[1][key]), key
    (scored,) = run.path.glob("evaluations/*/metrics.json")
    assert json.loads(scored.read_text())["figures"] == rows[families.BY_ITERATIONS]["scores"]["figures"]
