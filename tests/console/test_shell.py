"""What the user has set for sbatch in the shell: taken over, or named."""

from __future__ import annotations

import pytest

from ecm_cluster.base.errors import UserError
from ecm_cluster.console import shell
from ecm_cluster.job import job


@pytest.fixture(autouse=True)
def no_site(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


SET = {"SBATCH_ACCOUNT": "vision", "SBATCH_PARTITION": "low", "SBATCH_QOS": "scav", "SBATCH_RESERVATION": "paper",
       "SBATCH_CONSTRAINT": "nvlink", "SBATCH_EXCLUDE": "n1", "SBATCH_TIMELIMIT": "2:00:00", "SBATCH_WCKEY": "w"}


def loaded(environ, **flags):
    return job.load(None, flags, shell.defaults(environ))


def test_what_a_user_sets_on_purpose_becomes_part_of_the_job_and_so_of_its_record():
    made = loaded(SET)
    assert (made.account, made.partition, made.qos, made.reservation, made.constraint, made.exclude, made.time,
            made.slurm) == ("vision", "low", "scav", "paper", "nvlink", "n1", "2:00:00", {"wckey": "w"})
    assert shell.ignored(SET, made) == []
    assert shell.used(SET, made)[:2] == ["account vision (SBATCH_ACCOUNT)", "partition low (SBATCH_PARTITION)"]
    assert job.make(made.as_dict()) == made


def test_flags_and_files_beat_the_shell_and_that_is_said():
    made = loaded(SET, account="nlp", slurm={"wckey": None})
    assert (made.account, made.partition, made.slurm) == ("nlp", "low", {"wckey": None})
    assert shell.ignored(SET, made) == ["ignored: SBATCH_ACCOUNT=vision, because account is nlp",
                                        "ignored: SBATCH_WCKEY=w, because wckey is not set"]


def test_what_is_dropped_is_named_in_one_line():
    environ = {"SBATCH_GRES": "gpu:1", "SBATCH_EXPORT": "NONE", "SBATCH_ARRAY_INX": "0-3", "SBATCH_OUTPUT": "x",
               "HOME": "/nowhere"}
    (line,) = shell.ignored(environ, loaded(environ))
    assert line.startswith("ignored: SBATCH_ARRAY_INX, SBATCH_EXPORT, SBATCH_GRES, SBATCH_OUTPUT, because")


def test_what_the_shell_of_a_job_has_set_is_not_the_users():
    environ = {**SET, "SLURM_JOB_ID": "77"}
    made = loaded(environ)
    assert (made.account, made.partition) == (None, None)
    (line,) = shell.ignored(environ, made)
    assert "SBATCH_ACCOUNT" in line and "inside job 77" in line


def test_an_invalid_value_is_reported_with_its_variable_and_only_if_it_is_used():
    environ = {"SBATCH_TIMELIMIT": "soon"}
    with pytest.raises(UserError, match="SBATCH_TIMELIMIT: invalid value 'soon'"):
        loaded(environ)
    assert loaded(environ, time="90").time == "90"


def test_a_variable_that_is_empty_sets_nothing():
    assert loaded({"SBATCH_ACCOUNT": ""}).account is None
    assert shell.ignored({"SBATCH_ACCOUNT": "", "SBATCH_GRES": ""}, loaded({})) == []


@pytest.mark.parametrize("name", ["SLURM_CLUSTERS", "SBATCH_CLUSTERS"])
def test_jobs_of_another_cluster_are_refused(name):
    for here in ("a", None):
        with pytest.raises(UserError, match=f"{name}: 'b' is not this cluster"):
            shell.check_cluster({name: "b"}, here)
    shell.check_cluster({name: "b"}, "b")
    shell.check_cluster({name: ""}, "a")
