"""Runs of another user: data to be shown, never acted on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from users import ATTACKER, VICTIM, acting_as, needs_root, shared_folder

from ecm_cluster.errors import UserError
from ecm_cluster.run import Run


def given_to(uid: int, folder: Path) -> Path:
    """The folder and all in it as files of a user; links themselves, not what they lead to."""
    for above, folders, names in os.walk(folder):
        for name in (*folders, *names):
            os.lchown(os.path.join(above, name), uid, uid)
    os.chown(folder, uid, uid)
    return folder


def bare(folder: Path, uid: int) -> Run:
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    return Run(given_to(uid, folder))


@needs_root
def test_a_run_belongs_to_the_owner_of_its_folder_wherever_links_lead(tmp_path):
    shared = shared_folder(tmp_path)
    own, other, planted = (bare(shared / name, uid) for name, uid in
                           (("own", VICTIM), ("other", ATTACKER), ("planted", VICTIM)))
    os.chown(planted.run_file, ATTACKER, ATTACKER)  # in a folder that others may write to
    (shared / "link").symlink_to(other.path)
    os.lchown(shared / "link", VICTIM, VICTIM)
    with acting_as(VICTIM):
        assert own.is_own and not other.is_own and not planted.is_own and not Run(shared / "link").is_own
        assert not Run(shared / "gone").is_own
        own.require_own("resume")
        with pytest.raises(UserError, match=rf"^RUN: {other.path} belongs to uid {ATTACKER}; only its owner can "
                                            "resume it$"):
            other.require_own("resume")
        with pytest.raises(UserError, match="No such file or directory"):
            Run(shared / "gone").require_own("resume")
    assert not own.is_own, "root has runs of its own"
    with pytest.raises(UserError, match=f"uid {VICTIM}"):
        own.require_own("resume")
