"""Who can read a run, and that the values of ``env`` are nowhere but in the file that its owner alone can read."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from small import ROOT, job_flags, wait_until
from users import ATTACKER, needs_root, shared_folder

from ecm_cluster import submit
from ecm_cluster.backends import driver
from ecm_cluster.base import files, units
from ecm_cluster.base.errors import UserError
from ecm_cluster.chain import submissions
from ecm_cluster.console import cli
from ecm_cluster.freeze import weights
from ecm_cluster.job import job, sharing
from ecm_cluster.rundir import job_env
from ecm_cluster.rundir.run import Run
from ecm_cluster.rundir.spec import RunSpec

SECRET = "s3cret-of-the-victim"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def job_file(folder: Path, *lines: str) -> Path:
    path = folder / "job.yaml"
    path.write_text("\n".join([(ROOT / "jobs/demo.yaml").read_text(), f"env: {{WANDB_API_KEY: {SECRET}}}", *lines]))
    return path


def files_with(folder: Path, text: str) -> list[str]:
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*"))
            if path.is_file() and text.encode() in path.read_bytes()]


def submitted(tmp_path: Path, data: Path, *flags: object, lines: tuple[str, ...] = ("setup: ['exit 3']",)) -> Run:
    words = [job_file(tmp_path, *lines), *job_flags(data, tmp_path / "runs", "a-run")[1:], "--cluster", "local",
             "--no-check", *flags]
    assert cli.run(submit.main, [str(word) for word in words]) == 0
    run = Run(tmp_path / "runs" / "a-run")
    wait_until(lambda: driver.find(run) is None, "the driver to end")
    return run


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


# ---------------------------------------------------------------------------------------------- where the values are


def test_the_values_of_env_are_in_one_file_of_the_owners(tmp_path, small_data, umask, capfd):
    umask(0)
    run = submitted(tmp_path, small_data)
    assert files_with(run.path, SECRET) == [run.env_file.name]
    assert (mode(run.env_file), mode(run.path)) == (0o600, 0o700)
    assert "WANDB_API_KEY" in run.run_file.read_text()
    assert SECRET not in "".join(capfd.readouterr())
    assert SECRET not in repr(run.job()) + repr(run.spec)


def test_a_dry_run_shows_no_value(tmp_path, small_data, capsys):
    words = [job_file(tmp_path), *job_flags(small_data, tmp_path / "runs", "a-run")[1:], "--dry-run"]
    assert cli.run(submit.main, [str(word) for word in words]) == 0
    said = capsys.readouterr()
    assert ". " + str(tmp_path / "runs/a-run/env.sh") in said.out
    assert SECRET not in said.out + said.err


@pytest.mark.parametrize("line", ["env: {KEY: [%s]}", "env: [%s]", "env: {KEY: {a: %s}}", "env: %s",
                                  "env: {A B: %s}", "env: {UID: %s}"])
def test_no_message_about_env_shows_its_values(tmp_path, line):
    path = tmp_path / "a.yaml"
    path.write_text(line % SECRET)
    with pytest.raises(UserError) as caught:
        job.load(str(path), {})
    assert SECRET not in str(caught.value)
    assert "env" in str(caught.value)


def test_setup_lines_see_the_values_which_hold_against_them(tmp_path):
    run = Run(tmp_path)
    made = job.make({"env": {"KEY": "a\nb", "OTHER": "x"}, "setup": ["export SEEN=$KEY OTHER=y"]})
    job_env.write(run, made)
    from ecm_cluster.slurm.sbatch import environment_lines

    script = "\n".join(["ecm_depth=0", *environment_lines(run, made), 'printf "%s,%s,%s" "$SEEN" "$KEY" "$OTHER"'])
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True).stdout == "a\nb,a\nb,x"
    run.env_file.unlink()
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert run.env_file.name in done.stderr


# ---------------------------------------------------------------------------------------------- runs that exist


def test_a_run_of_an_earlier_version_keeps_its_values_and_moves_them_when_it_is_submitted_again(tmp_path):
    run = Run(tmp_path)
    files.write_json(run.run_file, {"cluster": "local", "job": {"env": {"KEY": SECRET}}})
    job_env.keep(run, run.job())
    assert SECRET in run.env_file.read_text()
    assert mode(run.env_file) == 0o600
    again = RunSpec.from_dict(run.spec.as_dict())
    assert again.job.env == {"KEY": "(set)"}


def test_a_start_whose_values_are_gone_is_refused(tmp_path):
    run = Run(tmp_path)
    files.write_json(run.run_file, {"cluster": "local", "job": {"env": {"KEY": "(set)"}}})
    with pytest.raises(UserError, match=r"env: the values of KEY are lost, as .*env\.sh does not exist"):
        job_env.keep(run, run.job())


@pytest.mark.slow
def test_an_interrupted_submission_continues_only_with_the_same_values(tmp_path, small_data, capfd):
    run = submitted(tmp_path, small_data)
    submissions.take_back(run, "train")
    words = [str(tmp_path / "job.yaml"), *map(str, job_flags(small_data, tmp_path / "runs", "a-run")[1:]),
             "--cluster", "local", "--no-check"]
    (tmp_path / "job.yaml").write_text((tmp_path / "job.yaml").read_text().replace(SECRET, "another"))
    assert cli.run(submit.main, words) == 2
    assert "had another env;" in capfd.readouterr().err
    (tmp_path / "job.yaml").write_text((tmp_path / "job.yaml").read_text().replace("another", SECRET))
    assert cli.run(submit.main, words) == 0
    wait_until(lambda: driver.find(run) is None, "the driver to end")


# ---------------------------------------------------------------------------------------------- who can read a run


@pytest.mark.parametrize(("share", "closed", "expected"), [
    ("none", 0o000, 0o700), ("group", 0o077, 0o750), ("group", 0o002, 0o750), ("all", 0o077, 0o755),
    ("all", 0o002, 0o755)])
def test_a_run_is_closed_to_others_but_to_those_it_is_shared_with(tmp_path, umask, share, closed, expected):
    umask(closed)
    folder = tmp_path / "runs" / "a-run"
    sharing.make(folder)
    assert mode(folder) == 0o700
    assert mode(folder.parent) == 0o777 & ~closed
    sharing.open_to(folder, share)
    assert mode(folder) == expected
    (folder / "new").mkdir()
    assert mode(folder / "new") == (0o777 & ~closed if share == "none" else expected)
    shell = "\n".join([f"umask {closed:04o}", *sharing.lines(share), f"mkdir {folder}/by-shell"])
    subprocess.run(["bash", "-c", shell], check=True)
    assert mode(folder / "by-shell") == mode(folder / "new")


@needs_root
def test_a_folder_that_another_user_has_laid_out_is_not_made_a_run(tmp_path):
    folder = shared_folder() / "a-run"
    folder.mkdir()
    os.chown(folder, ATTACKER, ATTACKER)
    with pytest.raises(UserError, match="name: .* belongs to another user"):
        sharing.open_to(folder, "none")


# ---------------------------------------------------------------------------------------------- URLs


@pytest.mark.parametrize(("url", "shown"), [
    ("https://me:pw@host/a.pth", "https://***@host/a.pth"),
    ("https://host/a.pth?id=3&token=x", "https://host/a.pth?id=3&token=***"),
    ("https://host/a.pth?X-Amz-Signature=1&X-Amz-Credential=2#x",
     "https://host/a.pth?X-Amz-Signature=***&X-Amz-Credential=***#x"),
    ("https://host/a@b.pth?download=1", "https://host/a@b.pth?download=1"),
    ("torchvision://resnet50", "torchvision://resnet50")])
def test_secrets_in_a_url_are_not_shown(url, shown):
    assert units.without_secrets(url) == shown


def test_a_password_in_a_url_is_refused_without_showing_it():
    with pytest.raises(UserError, match=r"load_from: https://\*\*\*@host/a\.pth has a user's name in it"):
        weights.find({"load_from": "https://me:pw@host/a.pth", "model": {}})
    assert "x1" not in repr(weights.find({"load_from": "https://host/a.pth?token=x1", "model": {}})[0].source)
