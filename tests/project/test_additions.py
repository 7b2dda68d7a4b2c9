"""An option of sbatch, a cause, a metric, a scorer and a verb are added in at most two files each, and all show them.

Each is added to a copy of the source, by the edit that docs/architecture.md describes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import former_version
import pytest
from scored import scored_run

from ecm_cluster.base import files
from ecm_cluster.job import flags
from ecm_cluster.job.job import OPTIONS, RESOURCES, STAGING
from ecm_cluster.scoring import metrics

ROOT = Path(__file__).resolve().parents[2]


class Copy:
    """A copy of the source, to edit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for package in ("ecm_cluster", "mmdet_ext", "jobs", "configs"):
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))

    def insert(self, path: str, before: str, text: str) -> None:
        file = self.folder / path
        source = file.read_text()
        assert source.count(before) == 1, f"{path} has no single {before!r}"
        file.write_text(source.replace(before, text + before))

    def __call__(self, *argv: object) -> str:
        env = {**os.environ, "PYTHONPATH": str(self.folder), "COLUMNS": "200"}
        done = subprocess.run([sys.executable, *map(str, argv)], cwd=self.folder, env=env, capture_output=True,
                              text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def verb(self, name: str, *argv: object) -> str:
        return self("-m", f"ecm_cluster.{name}", *argv)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(tmp_path_factory.mktemp("copy"))


@pytest.mark.slow
def test_an_option_of_sbatch_is_added_in_one_file(copy, small_data):
    copy.insert("ecm_cluster/job/job.py", "    exclusive: bool",
                '    switches: str | None = option(None, TEXT, "most leaf switches", "--switches", RESOURCES, '
                '"switches")\n')
    for verb in ("submit", "evaluate", "resume"):
        assert "most leaf switches" in copy.verb(verb, "--help")
    job = copy.folder / "mine.yaml"
    job.write_text(f"config: configs/demo.py\ndevice: cpu\ndata_root: {small_data}\nswitches: 1@60\n")
    said = copy.verb("submit", job, "--dry-run")
    assert "  options     switches 1@60\n" in said and said.count("#SBATCH --switches=1@60\n") == 2
    refused = copy("-c", "from ecm_cluster.job import job\ntry: job.make({'slurm': {'switches': 1}})\n"
                         "except ValueError as error: print(error)")
    assert refused.startswith("slurm: option 'switches' is set by the launcher itself; use switches")


@pytest.mark.slow
def test_a_cause_of_an_ending_is_added_in_one_file(copy, tmp_path):
    copy.insert("ecm_cluster/attempts/causes.py", '    "hung": Cause(',
                '    "out of quota": Cause("stop", "the user has no quota left", "run", states=("OUT_OF_QUOTA",),\n'
                '                          error=r"Disk quota exceeded", remedy="delete old runs"),\n')
    run = former_version.complete(tmp_path)
    number = run.newest_attempt() + 1
    files.create_exclusive(run.attempt_file(number), json.dumps({"number": number, "accepts": []}))
    run.ledger(number, "task000").write("end", cause="out of quota", detail="Disk quota exceeded")
    said = copy("-c", "import sys; from ecm_cluster.attempts import causes, endings; "
                      "from ecm_cluster.rundir.run import Run; "
                      "print(causes.of_error('OSError: Disk quota exceeded'), causes.BY_STATE['OUT_OF_QUOTA'], "
                      "endings.decide(Run(sys.argv[1])).action, sep='; ')", run.path)
    assert said == "out of quota; out of quota; stop\n"
    assert "Disk quota exceeded" in copy.verb("status", "--runs-dir", run.path.parent)


@pytest.mark.slow
def test_a_metric_is_added_in_one_file(copy, tmp_path):
    copy.insert("ecm_cluster/scoring/metrics.py", '    Metric("APs",',
                '    Metric("AP90", lambda c: c.at(0.9), (TABLE, LINE, COMPARE)),\n')
    for name in ("a", "b"):
        scored_run(tmp_path / name, {10: 0.1})
    assert "box AP90" in copy.verb("evaluate", tmp_path / "a", "--checkpoints", 10, "--dry-run")
    assert "  AP90  " in copy.verb("status", tmp_path / "a")
    assert "\nAP90 " in copy.verb("compare", tmp_path / "a", tmp_path / "b")
    figures = copy("-c", "import numpy as np\nfrom ecm_cluster.scoring import metrics\n"
                         "arrays = np.full((10, 101, 2, 4), 0.25), np.full((10, 2, 4), 0.5)\n"
                         "categories = [{'id': i, 'frequency': 'r'} for i in (1, 2)]\n"
                         "print(metrics.figures(metrics.of_lvis(*arrays, categories, 300))['AP90'])")
    assert float(figures) == 0.25


@pytest.mark.slow
def test_a_scorer_is_a_file_of_its_own_and_an_entry_in_the_table(copy, tmp_path):
    (copy.folder / "ecm_cluster/scoring/halves.py").write_text(
        "from dataclasses import replace\n\nfrom . import lvis\n\n\n"
        "def score(document, found, iou_types, limits, thresholds, on_progress):\n"
        "    halves = replace(found, bbox=found.bbox * [1, 1, 0.5, 1])\n"
        "    return lvis.score(document, halves, iou_types, limits, thresholds, on_progress)\n")
    copy.insert("ecm_cluster/scoring/scorers.py", "SCORERS = {",
                "def _halves() -> Score:\n    from . import halves\n\n    return halves.score\n\n\n")
    copy.insert("ecm_cluster/scoring/scorers.py", '"coco": Scorer(', '"halves": Scorer(LVIS, _halves), ')
    assert "halves" in copy.verb("evaluate", "--help")
    run = scored_run(tmp_path / "a", {10: 0.1})
    assert "1 to score" in copy.verb("evaluate", run.path, "--checkpoints", 10, "--vary", "scorer=halves", "--dry-run")
    scored = copy("-c", f"""import numpy as np
from ecm_cluster.scoring import detections, score
found = detections.of_image(1, [1], [0.9], [[0, 0, 2, 2]])
for scorer in ("lvis", "halves"):
    made = score.score({str(run.path / "val.json")!r}, found, ["bbox"], scorer=scorer)
    print(made["scorer"], round(made["figures"]["bbox"]["AP"], 6))""")
    assert scored.split() == ["lvis", "1.0", "halves", "0.1"]  # half of a box overlaps it by 0.5, the first threshold


LAST = """\"\"\"Print the newest checkpoint of a run.\"\"\"

from __future__ import annotations

from collections.abc import Sequence

from .base import folders
from .console import cli
from .job import flags
from .job import job as jobs
from .rundir import checkpoints, runs


def parser():
    made = cli.Parser(prog="python -m ecm_cluster.last", description=__doc__)
    made.add_argument("run")
    flags.add_flags(made, ["runs_dir"])
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    run = runs.find(args.run, folders.absolute(args.runs_dir or jobs.load(None, {}).runs_dir))
    found = checkpoints.last(run)
    print(f"{run.name}: {found.file if found else 'no checkpoint'}")
    return cli.EXIT_OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
"""


@pytest.mark.slow
def test_a_verb_is_a_file_of_its_own_and_a_line_in_the_list_of_verbs(copy, tmp_path):
    (copy.folder / "ecm_cluster/last.py").write_text(LAST)
    copy.insert("ecm_cluster/__main__.py", '    "synthesize":', '    "last": "print the newest checkpoint of a run",\n')
    run = former_version.complete(tmp_path)
    assert "\n  last        print the newest checkpoint of a run\n" in copy("-m", "ecm_cluster")
    assert "Print the newest checkpoint of a run." in copy.verb("last", "--help")
    assert copy.verb("last", run.path) == "former: iter_0000021-a0001.pth\n"
    assert copy("-m", "ecm_cluster", "last", "former", "--runs-dir", tmp_path / "runs").startswith("former: iter_")
    assert "did you mean last?" in copy("-c", "from ecm_cluster.__main__ import main\ntry: main(['lats'])\n"
                                              "except ValueError as error: print(error)")


def test_every_option_of_slurm_has_a_flag_and_a_group():
    for name, one in OPTIONS.items():
        assert not one.slurm or (one.flag and one.group in (RESOURCES, STAGING)), name
    assert {"nodes", "stage"} <= set(flags.in_groups(RESOURCES, STAGING, on_slurm=False)) < set(
        flags.in_groups(RESOURCES, STAGING))
    assert "partition" not in flags.in_groups(RESOURCES, on_slurm=False)


def test_a_metric_has_one_name_and_known_places():
    names = [metric.name for metric in metrics.METRICS]
    assert len(set(names)) == len(names)
    assert {place for metric in metrics.METRICS for place in metric.shown} == {
        metrics.TABLE, metrics.LINE, metrics.COMPARE}
