"""What the README tells a new user to type works, and it leaves out no verb."""

from __future__ import annotations

import re

import pytest
import readme
from small import ROOT, await_state

from ecm_cluster.__main__ import VERBS
from ecm_cluster.rundir.run import Run


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


def rows(document: str) -> list[str]:
    """The events of a document's table of what happens when."""
    section = (ROOT / document).read_text().split("What happens when…\n")[1].split("\n## ")[0]
    return re.findall(r"^\| (.+?) \| .+ \|$", section, re.MULTILINE)[1:]  # without the head


def test_each_line_of_what_happens_when_is_held_by_a_test_that_exists():
    said = (ROOT / "tests" / "project" / "promises.txt").read_text().split("\n\n", 1)[1]
    promises = dict(re.findall(r"^(\S.*)\n    (\S+)$", said, re.MULTILINE))
    assert rows("docs/guide/what-happens.md") == list(promises)
    for event, test in promises.items():
        file, _, name = test.partition("::")
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(), event


def test_the_readme_has_a_few_lines_of_what_happens_when_and_links_all():
    text = (ROOT / "README.md").read_text()
    assert len(rows("README.md")) == 8
    every = (ROOT / "docs/guide/what-happens.md").read_text()
    for row in rows("README.md"):
        assert next(line for line in text.splitlines() if line.startswith(f"| {row} |")) in every
    assert "(docs/guide/what-happens.md)" in text


def test_every_link_of_a_document_leads_to_a_file_that_exists():
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path}: {target}"


def test_the_dry_runs_of_the_readme_print_plan_and_script(tmp_path):
    for line in readme.commands("dry"):
        printed = readme.run(line, tmp_path)
        assert "#SBATCH --gpus-per-node=8" in printed
        assert printed.endswith("dry run: nothing was written or submitted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_each_way_to_bring_an_environment_makes_the_script_that_the_tutorial_promises(tmp_path):
    document = "docs/tutorials/slurm-cluster.md"
    readme.write_files(document, tmp_path)
    printed = {line.split()[3].split("/")[1]: readme.run(line, tmp_path) for line in readme.commands("dry", document)}
    assert "module load cuda/12.8" in printed["modules.yaml"]
    assert "/shared/envs/ecm/bin/python -u -m" in printed["conda.yaml"]
    assert "/shared/containers/ecm-python -u -m" in printed["apptainer.yaml"]
    assert "--container-image=/shared/containers/ecm.sqsh" in printed["pyxis.yaml"]
    assert "--container-writable " in printed["pyxis.yaml"]


@pytest.mark.slow
def test_the_first_run_of_the_readme_works_as_shown_and_reaches_some_ap(tmp_path):
    printed = [readme.run(line, tmp_path) for line in readme.commands("local")]
    assert float(re.search(r"^box +([\d.]+)", printed[1], re.MULTILINE)[1]) > 20
    assert "first" in printed[2] and "done" in printed[2]
    assert printed[3].startswith("first: done: trained and scored")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one-machine", "your-own"])
def test_a_tutorial_works_as_shown(name, tmp_path):
    document = f"docs/tutorials/{name}.md"
    readme.write_files(document, tmp_path)
    for line in readme.commands("", document):
        readme.run(line.replace("--train-images 300", "--train-images 24"), tmp_path)  # the same on less data
    runs = sorted((tmp_path / "runs").iterdir())
    for path in runs:
        await_state(Run(path), "done")
