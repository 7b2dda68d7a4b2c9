"""Verbs where the place fails, a few of each kind; ``python -m tests.places`` has them all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import calls, case, interrupts, judging, places
from small import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems")]

BY_NAME = {place.name: place for place in places.PLACES}
CASES = [("submit", "full full-16k quota-2k read-only no-permission directory-gone stdout-full all-closed "
                    "pipe-closed-unbuffered ulimit-n-12 ulimit-v-100000 ulimit-u-1"),
         ("status", "full read-only no-permission no-home stdout-full pipe-closed latin-1 ascii ulimit-v-60000"),
         ("compare-csv", "full read-only"), ("stage-copy", "full quota-40k"), ("synthesize", "full-256k read-only"),
         ("clean", "read-only"), ("stage-status", "read-only"),
         ("evaluate-shown", "read-only no-permission full"), ("submit-dry", "latin-1 no-tmp-anywhere read-only")]


@pytest.fixture(scope="module")
def world() -> Iterator[Path]:
    made = case.world_in()
    calls.make(made)
    yield made
    shutil.rmtree(made.parent)


@pytest.mark.parametrize(("name", "place"), [(name, place) for name, several in CASES for place in several.split()])
def test_a_verb_in_a_bad_place_answers_well_and_leaves_nothing_half_made(name: str, place: str, world: Path,
                                                                         known: dict[str, case.Case]) -> None:
    call = next(one for one in calls.calls(world) if one.name == name)
    where = BY_NAME[place]
    key = f"{name} {where.user}"
    if key not in known:
        known[key] = case.carry_out(world, call, places.WELL[where.user])
    done = case.carry_out(world, call, where, again=call.acts)
    assert not judging.faults(done, known[key]), done


@pytest.fixture(scope="module")
def known() -> dict[str, case.Case]:
    """The answers where all is well, by call and user."""
    return {}


@pytest.mark.parametrize("name", ["submit", "status"])
def test_ctrl_c_at_any_moment_is_one_line_and_the_same_call_goes_through(name: str, world: Path) -> None:
    call = next(one for one in calls.calls(world) if one.name == name)
    faults = [(one.seconds, one.faults, one.err) for one in interrupts.moments(world, call, 5, 1) if one.faults]
    assert not faults


def test_a_name_that_the_locale_cannot_hold_is_refused_with_the_remedy(tmp_path: Path) -> None:
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "ecm_cluster.status", "--runs-dir", "rüns"], env=env, cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "needs UTF-8, and this locale is in ascii; export LC_ALL=C.UTF-8" in done.stderr
