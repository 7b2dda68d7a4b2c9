"""What a submission settles about staging, and what its plan says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecm_cluster.base.errors import UserError
from ecm_cluster.job import job as jobs
from ecm_cluster.staging import planned


def staging(root: str | None = None, **options) -> planned.Staging:
    return planned.plan(jobs.make(options), root)


@pytest.mark.parametrize("scratch, environ, expected", [
    ("/local/me", {"SLURM_TMPDIR": "/job", "TMPDIR": "/tmp"}, "/local/me"),
    (None, {"SLURM_TMPDIR": "/job", "TMPDIR": "/tmp"}, "/job"),
    (None, {"TMPDIR": "/tmp"}, "/tmp"),
    (None, {}, None),
])
def test_scratch_is_the_jobs_then_slurms_then_tmpdir(scratch, environ, expected):
    found = planned.scratch_of(staging(scratch=scratch), environ)
    assert found == (Path(expected) if expected else None)


def test_variables_in_scratch_are_the_nodes_to_fill_in(monkeypatch):
    monkeypatch.setenv("NODE_DISK", "/nvme")
    assert planned.scratch_of(staging(scratch="$NODE_DISK/me"), {}) == Path("/nvme/me")


@pytest.mark.parametrize("scratch, words", [
    ("/local/me", "where the next attempt on the node finds it"), ("$SLURM_TMPDIR/data", "gone with the job"),
    ("/dev/shm/me", "memory that counts against the job's"), (None, "--scratch DIR names a folder that persists"),
])
def test_the_plan_says_whether_the_copy_is_there_at_the_next_attempt(scratch, words):
    assert words in planned.describe(staging(scratch=scratch), [])


def test_the_plan_of_a_plain_data_root_says_what_makes_its_images_stageable():
    assert "ecm_cluster.stage pack" in planned.describe(staging("/datasets/lvis"), [])
    assert "ecm_cluster.stage pack" not in planned.describe(staging("/datasets/lvis", stage="annotations"), [])
    assert planned.describe(staging("/datasets/lvis", stage="none"), []).startswith("nothing")


def test_on_one_machine_nothing_is_copied_unless_a_scratch_is_named():
    assert planned.describe(staging("/datasets/lvis"), [], {}).startswith("nothing: the data is read where it is")
    assert "/local/me" in planned.describe(staging("/datasets/lvis", scratch="/local/me"), [], {})


def test_a_scratch_in_memory_that_the_job_has_not_got_is_refused_with_a_line():
    in_memory = staging(scratch="/dev/shm/me")
    assert planned.check_memory(in_memory, 10 << 30, 48 << 30) is None
    line = planned.check_memory(in_memory, 50 << 30, 48 << 30)
    assert line is not None and line.startswith("scratch: /dev/shm/me is memory") and "--mem-per-gpu" in line
    assert planned.check_memory(staging(scratch="/local/me"), 50 << 30, 48 << 30) is None


def test_what_a_resume_changes_of_the_job_holds_and_the_rest_stays_as_submitted(tmp_path):
    begun = staging(str(tmp_path), scratch="/old")
    begun.annotations["/a.json"] = "sha256:1"
    later = planned.Staging.of(begun.frozen(), jobs.make({"scratch": "/new", "broadcast": True}))
    assert (later.scratch, later.broadcast, later.annotations) == ("/new", True, {"/a.json": "sha256:1"})


def test_what_to_stage_is_one_of_three_words():
    with pytest.raises(UserError, match="stage: 'image' is unknown.*images\\+annotations, annotations, none"):
        jobs.make({"stage": "image"})
