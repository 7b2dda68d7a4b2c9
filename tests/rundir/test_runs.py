"""Runs by name, path and shell pattern, as several verbs take them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecm_cluster.base.errors import UserError
from ecm_cluster.rundir import runs


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four runs, submitted in another order than that of their names, and something that is none."""
    for submitted, name in enumerate(["exp-2", "exp-1", "base", "run [v2]"]):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text(json.dumps({"submitted": submitted}))
    (tmp_path / "runs/exp-notes").mkdir()
    return tmp_path / "runs"


def names(folder: Path, *words: str) -> list[str]:
    return [run.name for run in runs.find_all(words, folder)]


def test_names_paths_and_patterns_may_be_mixed_and_their_order_stays(folder):
    assert names(folder, "base", str(folder / "exp-1")) == ["base", "exp-1"]
    assert sorted(names(folder, "base", "exp-*")) == ["base", "exp-1", "exp-2"]
    assert names(folder, "base", "exp-*")[0] == "base"
    assert sorted(names(folder.parent, f"{folder}/exp-?")) == ["exp-1", "exp-2"], "a pattern in a path"
    assert names(folder) == []


def test_a_run_that_is_named_twice_is_found_once(folder):
    (folder.parent / "link").symlink_to(folder)
    assert sorted(names(folder, "exp-1", "exp-*", str(folder.parent / "link/exp-2"))) == ["exp-1", "exp-2"]


def test_a_name_with_brackets_is_that_run_and_not_a_pattern(folder):
    assert names(folder, "run [v2]") == ["run [v2]"]
    assert names(folder, "run [[]v*") == ["run [v2]"]


@pytest.mark.parametrize("word", ["EXP-*", "none-*", "[", "", "none/*", "exp-notes", "**/exp-1"])
def test_what_matches_nothing_is_refused_in_one_line(folder, word):
    with pytest.raises(UserError) as error:
        runs.find_all(["base", word], folder)
    assert "\n" not in str(error.value) and repr(word) in str(error.value)
