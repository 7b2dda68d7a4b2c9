"""What the README tells a new user to type works, and it leaves out no verb."""

from __future__ import annotations

import re

import pytest
import readme
from small import ROOT

from ecm_cluster.__main__ import VERBS


def test_every_verb_has_an_example_in_the_readme_or_is_what_make_demo_runs():
    lines = [line for kind in ("local", "dry", "slurm") for line in readme.commands(kind)]
    shown = {line.split()[2].replace("ecm_cluster.", "") for line in lines} | {"demo"}
    assert shown == set(VERBS)
    assert "ecm_cluster.demo" in (ROOT / "Makefile").read_text()


def test_the_readme_names_every_verb_in_its_table():
    text = (ROOT / "README.md").read_text()
    for verb in VERBS:
        assert f"| `{verb}" in text


def test_every_config_in_the_readme_exists_and_every_published_config_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    for folder in ("ecm", "baselines"):
        for path in (ROOT / "configs" / folder).glob("*.py"):
            assert f"`{folder}/{path.stem}`" in text, path


def test_each_line_of_what_happens_when_is_held_by_a_test_that_exists():
    section = (ROOT / "README.md").read_text().split("## What happens when…")[1].split("\n## ")[0]
    events = re.findall(r"^\| (.+?) \| .+ \|$", section, re.MULTILINE)
    told = (ROOT / "tests" / "promises.txt").read_text().split("\n\n", 1)[1]
    promises = dict(re.findall(r"^(\S.*)\n    (\S+)$", told, re.MULTILINE))
    assert events[1:] == list(promises), "the first row is the head"
    for event, test in promises.items():
        file, _, name = test.partition("::")
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(), event


def test_the_dry_runs_of_the_readme_print_plan_and_script(tmp_path):
    for line in readme.commands("dry"):
        printed = readme.run(line, tmp_path)
        assert "#SBATCH --gpus-per-node=8" in printed
        assert printed.endswith("dry run: nothing was written or submitted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_first_run_of_the_readme_works_as_shown(tmp_path):
    printed = [readme.run(line, tmp_path) for line in readme.commands("local")]
    assert "AP50" in printed[1]
    assert "first" in printed[2] and "done" in printed[2]
    assert printed[3].startswith("first: done: trained and scored")
