"""A group from its submission on: what is submitted, what is missing, what is on record."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import readme
from answers import Answers
from small import job_flags

from ecm_cluster import cancel, clean, resume, status, submit, sweeps
from ecm_cluster.base import files
from ecm_cluster.console import cli
from ecm_cluster.rundir.run import Run

LOSS = "model.roi_head.bbox_head.loss_cls"
CONFIG = "Configuration data as of 2026-11-25T12:00:00\nClusterName = alpha\nMaxJobCount = 10000\n"
SBATCH = """case "$*" in *--test-only*) exit 0;; esac
read -r n < {folder}/taken; read -r most < {folder}/most
[ "$n" -ge "$most" ] && {{ echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1; }}
n=$((n + 1)); echo $n > {folder}/taken; echo $((100 + n))
"""


class Site:
    """A Slurm that takes a number of jobs, whose ids begin with 101."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        answers = Answers(folder, monkeypatch)
        answers(scontrol=CONFIG, sacct=None, squeue="", scancel="", sinfo="", sacctmgr=None)
        answers.script("sbatch", SBATCH.format(folder=folder))
        self.folder = folder
        (folder / "taken").write_text("0\n")
        self.takes(100)

    def takes(self, most: int) -> None:
        (self.folder / "most").write_text(f"{most}\n")

    @property
    def taken(self) -> int:
        return int((self.folder / "taken").read_text())


@pytest.fixture
def site(tmp_path, monkeypatch) -> Site:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("ECM_CLUSTER_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)
    return Site(tmp_path, monkeypatch)


def ask(data: Path, *more: str, name: str = "grid", varied: tuple[str, ...] = ("seed=0,1", f"{LOSS}=@ecm,@ce"),
        ) -> list[str]:
    flags = [*job_flags(data, Path("runs"), name), "--no-eval", *more]
    return [*flags, *(word for text in varied for word in ("--vary", text))]


def call(capsys, verb, *argv: object) -> tuple[int, str, str]:
    code = cli.run(verb.main, [str(a) for a in argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def train_ids(group: str = "grid") -> dict[str, str | None]:
    record = json.loads(Path(f"runs/{group}/group.json").read_text())
    return {c["name"]: Run(Path("runs").absolute() / c["name"]).submission("train").get("job_id")
            for c in record["cells"]}


NAMES = ["grid-seed0-ecm", "grid-seed0-ce", "grid-seed1-ecm", "grid-seed1-ce"]


@pytest.mark.slow
def test_what_slurm_refused_is_submitted_when_the_same_is_asked_for_again(capsys, site, small_data):
    site.takes(2)
    code, out, err = call(capsys, submit, *ask(small_data))
    assert code == 1 and "grid-seed1-ecm: sbatch refused the train job: QOSMaxSubmitJobPerUserLimit" in err
    assert "2 of 4 runs were submitted, and the same command with --name grid submits the rest" in err
    assert list(train_ids().values()) == ["101", "102", None, None] and list(train_ids()) == NAMES
    code, out, _ = call(capsys, status, "grid", "--runs-dir", "runs")
    assert re.search(r"grid-seed1-ce +1 +@ce +not submitted", out) and "repeat the `submit` command" in out

    site.takes(100)
    code, out, _ = call(capsys, submit, *ask(small_data))
    assert code == 0 and "4 runs, 2 of them submitted already" in out
    assert list(train_ids().values()) == ["101", "102", "103", "104"]
    code, out, _ = call(capsys, submit, *ask(small_data))
    assert (code, site.taken) == (0, 4) and "4 runs, 4 of them submitted already" in out

    more = ("seed=2", f"{LOSS}=@seesaw,@ce")  # new values, in another order of names
    code, out, _ = call(capsys, submit, *ask(small_data, varied=more[::-1]))
    assert (code, site.taken) == (0, 6) and len(train_ids()) == 6
    spec = Run("runs/grid-seed2-seesaw").spec
    assert spec.group == {"name": "grid", "settings": {"seed": "2", LOSS: "@seesaw"}}
    assert (spec.job.seed, spec.job.options[LOSS]["num_classes"]) == (2, 6)


@pytest.mark.slow
def test_a_group_is_not_mixed_with_anything_else(capsys, site, small_data):
    assert call(capsys, submit, *ask(small_data))[0] == 0
    before = files.read_json(Path("runs/grid/group.json"))
    for argv, said in (
            (ask(small_data, "--set", "optimizer.lr=0.5"), "has another optimizer.lr"),
            (ask(small_data, "--nodes", "2"), "has another nodes"),
            (ask(small_data, "--cluster", "local"), "has another cluster"),
            (ask(small_data, varied=("seed=0,1", "optimizer.lr=0.1")), "varies seed, model.roi_head.bbox_head"),
            (ask(small_data, "--seed", "4"), "seed is varied, and seed is set as well"),
            (ask(small_data, "--set", f"{LOSS}.loss_weight=2"), f"{LOSS}.loss_weight is set as well"),
            (ask(small_data, "--at-once", "0"), "at-once: invalid value 0"),
            ([*ask(small_data, name="grid-seed0-ecm")], "name: a run 'grid-seed0-ecm' already exists"),
            (ask(small_data, varied=()), "is a group of runs")):
        code, out, err = call(capsys, submit, *argv)
        assert (code, len(err.splitlines())) == (2, 1) and said in err, (argv, err)
    assert files.read_json(Path("runs/grid/group.json")) == before and site.taken == 4
    code, _, _ = call(capsys, submit, *ask(small_data, "--time", "30", "--partition", "other"))
    assert (code, site.taken) == (0, 4), "where and how long new runs wait may differ"


def test_the_whole_grid_is_validated_before_anything_is_written(capsys, site, small_data):
    code, _, err = call(capsys, submit, *ask(small_data, varied=("seed=0,1", "optimizer.lr=0.1,1",
                                                                 "data.samples_per_gpu=1,-1")))
    assert code == 2 and err.startswith("error: grid-seed0-lr0.1-samples_per_gpu-1: ") and not Path("runs").exists()
    code, out, err = call(capsys, submit, *ask(small_data, "--dry-run"))
    assert (code, site.taken, Path("runs").exists()) == (0, 0, False)
    assert all(name in out for name in NAMES) and "4 trainings, 0 evaluations" in out
    assert "rank hours  at most 4" in out and "limits      MaxJobCount 10000" in out


def test_the_example_of_the_guide_lists_what_it_would_submit_and_what_is_missing(capsys, site):
    (line,) = readme.commands("dry", "docs/guide/sweeps.md")
    code, out, err = call(capsys, submit, *shlex.split(line)[3:])
    assert code == 0 and "9 trainings, 9 evaluations" in out and re.search(r"GPU hours +at most 3,456", out)
    assert "losses-seed2-seesaw" in out and "would be refused: losses-seed0-ecm: " in err and not Path("runs").exists()


@pytest.mark.slow
def test_some_at_once_wait_for_the_end_of_the_chain_before_theirs(capsys, site, small_data):
    flags = ask(small_data, "--at-once", "2", varied=("seed=0,1,2,3",))
    flags.remove("--no-eval")
    assert call(capsys, submit, *flags)[0] == 0
    waits = {}
    for seed in range(4):
        run = Run(f"runs/grid-seed{seed}")
        script = (run.submitit_dir / f"{run.submission('train')['job_id']}_submission.sh").read_text()
        waits[seed] = re.findall("#SBATCH --dependency=(.*)", script)
    ends = [Run(f"runs/grid-seed{seed}").submission("evaluate")["job_id"] for seed in range(2)]
    assert waits == {0: [], 1: [], 2: [f"afterany:{ends[0]}"], 3: [f"afterany:{ends[1]}"]}


@pytest.mark.slow
def test_a_lost_record_is_made_again_from_the_runs_and_only_they_count(capsys, site, small_data):
    assert call(capsys, submit, *ask(small_data))[0] == 0
    record, runs = Path("runs/grid/group.json"), Path("runs").absolute()
    for damage in (lambda: record.write_text("{"), lambda: shutil.rmtree(record.parent)):
        damage()
        assert [run.name for run in sweeps.members("grid", runs)] == sorted(NAMES, key=NAMES.index)
        assert "4 runs" in call(capsys, status, "grid", "--runs-dir", "runs")[1]
    assert call(capsys, submit, *ask(small_data))[0] == 0
    assert site.taken == 4 and list(train_ids()) == NAMES
    shutil.copytree("runs/grid-seed0-ce", "runs/other")
    other = files.read_json(Path("runs/other/run.json"))
    files.write_json(Path("runs/other/run.json"), {**other, "name": "other", "group": {}})
    written = files.read_json(record)
    written["cells"].append({"name": "other", "settings": {}, "digest": ""})
    files.write_json(record, written)
    assert "other" not in [run.name for run in sweeps.members("grid", runs)], "its own record does not say so"
    for name in ("../x", ".", "a/b", ""):
        written["cells"][-1]["name"] = name
        files.write_json(record, written)
        assert "/" not in "".join(run.name for run in sweeps.members("grid", runs))  # as from the runs
    assert sweeps.members("typo", runs) is None and sweeps.members("grid-seed0-ce", runs) is None
    shutil.rmtree("runs")
    assert sweeps.members("grid", runs) is None


@pytest.mark.slow
def test_cancel_and_resume_take_the_name_of_a_group(capsys, site, small_data):
    site.takes(2)
    call(capsys, submit, *ask(small_data))
    code, out, err = call(capsys, cancel, "grid", "--runs-dir", "runs")
    assert code == 0 and out.count("nothing to cancel") + out.count("cancelled") == 4
    assert [Run(f"runs/{name}").cancelled() for name in NAMES][2:] == [True, True], "a submit at work leaves them out"
    site.takes(100)
    code, out, _ = call(capsys, submit, *ask(small_data))
    assert code == 0 and not any(Run(f"runs/{name}").cancelled() for name in NAMES[2:])
    code, out, _ = call(capsys, resume, "grid", "--runs-dir", "runs", "--dry-run")
    assert "of 4 runs would be resumed" in out
    code, _, err = call(capsys, resume, "grid", "--runs-dir", "runs", "--from", "3")
    assert (code, err) == (2, "error: from: only for a single run; leave it out\n")
    code, out, _ = call(capsys, clean, "grid", "--runs-dir", "runs")
    assert code == 0 and all(name in out for name in NAMES)


@pytest.mark.slow
def test_a_group_without_a_name_gets_one_that_is_printed(capsys, site, small_data):
    flags = ask(small_data, varied=("seed=0,1",))
    at = flags.index("--name")
    code, out, _ = call(capsys, submit, *flags[:at], *flags[at + 2:])
    assert code == 0 and "python -m ecm_cluster.status runs/demo-group-001" in out
    code, out, _ = call(capsys, submit, *flags[:at], *flags[at + 2:])
    assert code == 0 and "demo-group-002-seed0: train" in out
