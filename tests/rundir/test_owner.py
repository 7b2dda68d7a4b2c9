"""A run has one owner: who may submit, cancel and take attempts, and what counts as alive."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from answers import Answers
from small import wait_until
from steering import ended_run

from ecm_cluster import cancel, evaluate, resume, status
from ecm_cluster.backends import liveness
from ecm_cluster.base import files
from ecm_cluster.chain import chain, evaluations, locks, submissions
from ecm_cluster.console import cli
from ecm_cluster.mmconfig import config
from ecm_cluster.rundir.run import Run
from ecm_cluster.slurm import commands, job_states, queue

ME = queue.user_name()
CONFIG = "Configuration data as of 2026-11-25T12:00:00\nClusterName             = {}\n"


@pytest.fixture
def answers(tmp_path, monkeypatch) -> Answers:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made = Answers(tmp_path, monkeypatch)
    made(sbatch="", scontrol=CONFIG.format("alpha"), sacct=None, squeue="", scancel="")
    return made


def rows(*lines: str) -> str:
    """Lines of squeue, written here with ; between the fields."""
    return "".join(line.replace(";", queue.SEPARATOR) + "\n" for line in lines)


def slurm_run(folder: Path, age: float = 3600, **record: Any) -> Run:
    """A run on Slurm whose training job is on record as 7."""
    run = ended_run(folder, "slurm", attempts=0, evaluation={"enabled": False})
    path = run.submission_file("train")
    files.write_json(path, {"token": "ecm-cluster:run:train:0123456789ab", "cluster": "slurm", "job_id": "7",
                            "former": [], **record})
    os.utime(path, (time.time() - age,) * 2)
    return run


TOKEN = "ecm-cluster:run:train:0123456789ab"
SCRIPT = "/runs/run/submitit/.submission_file_0123456789ab.sh"


def attempt(run: Run, number: int = 1, job_id: str = "7") -> None:
    files.write_json(run.attempt_file(number), {"number": number, "job_id": job_id, "host": "n1", "accepts": []})


def call(verb: Any, *argv: object) -> int:
    return cli.run(verb.main, [str(a) for a in argv])


# ---------------------------------------------------------------------------------------------- the lock


@pytest.mark.slow
def test_who_wants_to_submit_waits_for_the_other_and_says_so(tmp_path, capsys):
    run = slurm_run(tmp_path / "run")
    left = threading.Event()

    def hold() -> None:
        with files.locked(run.run_file):
            left.wait(3.0)

    other = threading.Thread(target=hold)
    other.start()
    wait_until(lambda: not _is_free(run), "the other holds the lock", 10)
    with locks.run_lock(run), locks.run_lock(run):  # reentrant
        other.join()
        assert not _is_free(run)
    assert capsys.readouterr().err == "run: waiting for another process that is submitting or cancelling its jobs\n"
    assert _is_free(run)


def _is_free(run: Run) -> bool:
    try:
        with files.locked(run.run_file, 0.0):
            return True
    except BlockingIOError:
        return False


def test_a_verb_that_only_looks_neither_waits_nor_adopts_while_another_submits(answers, tmp_path, capsys):
    run = slurm_run(tmp_path / "run", job_id=None)
    answers(squeue=rows(f"41;PENDING;None;N/A;{TOKEN};{SCRIPT}"))
    with files.locked(run.run_file):
        began = time.monotonic()
        assert call(status, run.path) == 0
        assert time.monotonic() - began < 2
    assert run.submission("train")["job_id"] is None
    assert call(status, run.path) == 0
    assert run.submission("train")["job_id"] == "41"


# ---------------------------------------------------------------------------------------------- tokens


def test_a_token_is_never_dropped_and_its_job_is_found_behind_a_newer_one(answers, tmp_path):
    run = slurm_run(tmp_path / "run")
    first = submissions.to_submit(run, "train", None)  # as if its submitter had died inside sbatch
    second = submissions.to_submit(run, "train", None)
    assert first != second and [job.token for job in run.submissions_of("train")] == [TOKEN, first, second]
    answers(squeue=rows(f"42;RUNNING;None;N/A;{first};(null)"))
    with locks.run_lock(run):
        submissions.adopt(run)
    assert submissions.job_ids(run, "train") == ["7", "42"]
    assert set(liveness.alive(run)) == {"42"}, "cancel and resume see it"


def test_a_token_that_slurm_does_not_know_is_kept_and_not_looked_for_again(answers, tmp_path):
    run = slurm_run(tmp_path / "run")
    first = submissions.to_submit(run, "train", None)
    submissions.to_submit(run, "train", None)
    with locks.run_lock(run):
        submissions.adopt(run)
    jobs = {job.token: job for job in run.submissions_of("train")}
    assert jobs[first].refused and not any(job.refused for token, job in jobs.items() if token != first)


def test_a_job_is_found_by_the_name_of_its_script_where_its_comment_is_another(answers):
    answers(squeue=rows(f"9;PENDING;None;N/A;for the grant 123;{SCRIPT}"))
    assert queue.find([TOKEN, "ecm-cluster:run:train:ffffffffffff"]) == {TOKEN: "9"}


# ---------------------------------------------------------------------------------------------- (id, token)


def test_an_id_that_belongs_to_another_job_by_now_is_left_alone(answers, tmp_path, capsys):
    run = slurm_run(tmp_path / "run")
    answers(squeue=rows("7;RUNNING;None;N/A;(null);/data/thesis.sh"))
    assert liveness.alive(run) == {}
    assert call(cancel, run.path) == 0
    assert "nothing to cancel" in capsys.readouterr().out and "scancel" not in answers.calls()
    assert not run.cancel_file.exists()


@pytest.mark.parametrize("comment, command, ours", [
    (TOKEN, "(null)", True), ("own", SCRIPT, True), ("own", "sbatch " + SCRIPT, True), ("(null)", "(null)", False),
    ("ecm-cluster:run:train:ffffffffffff", "/runs/run/submitit/.submission_file_ffffffffffff.sh", False),
    ("", f"sbatch /runs/run/submitit/.submission_file_{'ab' * 16}.sh", True),  # of an earlier version, in accounting
    ("", f"sbatch /runs/other/submitit/.submission_file_{'ab' * 16}.sh", False)])
def test_a_job_is_recognized_by_its_comment_or_its_script(comment, command, ours):
    state = job_states.JobState("7", "RUNNING", "None", comment, "N/A", command)
    assert state.is_of(TOKEN, "/runs/run/submitit") == ours


# ---------------------------------------------------------------------------------------------- alive, ended, not known


@pytest.mark.parametrize("squeue, beat, alive", [
    ("", False, set()), ("", True, {"7"}), (None, False, None), (None, True, {"7"}),
    ("RESV_DEL_HOLD", False, {"7"}), ("SPECIAL_EXIT", False, {"7"}), ("SOMETHING_NEW", False, {"7"}),
    ("CANCELLED", True, set())])
def test_resume_and_cancel_believe_what_status_sees(answers, tmp_path, squeue, beat, alive):
    run = slurm_run(tmp_path / "run")
    attempt(run)
    if beat:
        run.write_heartbeat(1, phase="training", iteration=1, iterations=9, epoch=0)
    answers(squeue=rows(f"7;{squeue};None;N/A;{TOKEN};") if squeue else squeue)
    found = liveness.alive(run)
    assert (None if found is None else set(found)) == alive
    answers(sbatch="77\n")
    state = status.states.fold([run])[0].state
    assert state == "unknown" if alive is None else (state in ("waiting", "running")) == bool(alive)
    assert call(resume, run.path) == (0 if alive == set() else 2)
    assert ("sbatch --parsable" in answers.calls()) == (alive == set())


def test_a_heartbeat_of_another_jobs_attempt_does_not_vouch_for_this_one(answers, tmp_path):
    run = slurm_run(tmp_path / "run")
    attempt(run, job_id="3")
    run.write_heartbeat(1, phase="training", iteration=1, iterations=9, epoch=0)
    assert liveness.alive(run) == {}


def test_a_job_that_slurm_does_not_list_yet_is_alive_for_a_while(answers, tmp_path):
    run = slurm_run(tmp_path / "run", age=1)
    assert "does not list it yet" in liveness.alive(run)["7"]
    assert status.states.fold([run])[0].state == "waiting"
    os.utime(run.submission_file("train"), (1, 1))
    assert liveness.alive(run) == {}


def test_jobs_are_asked_for_by_id_and_no_setting_of_the_shell_filters_the_answer(answers, tmp_path, monkeypatch):
    run = slurm_run(tmp_path / "run")
    for name in ("SQUEUE_PARTITION", "SQUEUE_ACCOUNT", "SQUEUE_NAMES", "SLURM_TIME_FORMAT", "SACCT_FORMAT"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    answers.script("squeue", f'echo "$@" >> {tmp_path}/asked\nexport -p >> {tmp_path}/asked\nexit 1\n')
    assert liveness.alive(run) is None
    asked = (tmp_path / "asked").read_text()
    assert "-j 7 " in asked and "--me" not in asked and "SLURM_CONF" in asked
    assert not any(word in asked for word in ("SQUEUE_", "SACCT_", "SLURM_TIME"))


def test_one_job_that_has_gone_is_an_answer(answers):
    answers.script("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1\n")
    assert queue.query(["7"]) == {}


# ---------------------------------------------------------------------------------------------- from elsewhere


@pytest.mark.parametrize("record, where", [
    ({"cluster_name": "beta", "user": ME}, "on a login node of beta"),
    ({"cluster_name": "alpha", "user": "anna"}, "have anna type `python -m ecm_cluster.")])
def test_from_another_cluster_or_as_another_user_a_verb_says_where_to_type_it(answers, tmp_path, capsys, record, where):
    run = slurm_run(tmp_path / "run", **record)
    before = sorted(path.name for path in run.path.rglob("*"))
    for verb, name in ((cancel, "cancel"), (resume, "resume")):
        assert call(verb, run.path) == 2
        output = capsys.readouterr().err
        assert where in output and f"python -m ecm_cluster.{name} {run.path}" in output and output.count("\n") == 1
    assert "sbatch" not in answers.calls() and "scancel" not in answers.calls()
    assert sorted(path.name for path in run.path.rglob("*")) == before
    assert call(status, run.path) == 0, "who only looks may"


@pytest.mark.parametrize("record", [{}, {"user": ME, "cluster_name": "alpha"}, {"user": ME, "cluster_name": None}])
def test_the_owner_and_records_without_an_owner_are_as_ever(answers, tmp_path, record):
    assert call(cancel, slurm_run(tmp_path / "run", **record).path) == 0


# ---------------------------------------------------------------------------------------------- stale starts


@pytest.mark.parametrize("earlier, token, job_id, stale", [
    (False, TOKEN, "7", False), (True, TOKEN, "7", True), (True, "", "7", True), (True, "", "8", False),
    (True, "", "8_3", False), (False, "", "7_1", False)])
def test_a_start_is_stale_once_another_job_is_on_record_in_its_place(tmp_path, earlier, token, job_id, stale):
    run = slurm_run(tmp_path / "run")
    if earlier:
        submissions.replace_token(run, "train", None)
        submissions.write_id(run, "train", "8")
    found = submissions.stale(run, "train", token, job_id, patience=0.0)
    assert bool(found) == stale
    assert not stale or found == "stale start: job 7 is not the one on record any more, job 8 is"


def test_a_record_that_is_older_than_the_job_is_read_again(tmp_path):
    """As on a node whose NFS client still has the record of the previous job."""
    run = slurm_run(tmp_path / "run")
    late = threading.Timer(1.0, lambda: files.write_json(run.submission_file("train"), {
        "token": "new", "cluster": "slurm", "job_id": None, "former": [{"token": TOKEN, "job_id": "7"}]}))
    late.start()
    assert submissions.stale(run, "train", "new", "8", patience=30.0) is None
    late.join()


def test_nothing_on_record_makes_nothing_stale(tmp_path):
    run = slurm_run(tmp_path / "run")
    assert submissions.stale(run, "sweep001", "some token", "9", patience=0.0) is None




# ---------------------------------------------------------------------------------------------- half a chain


def one_job_allowed(answers: Answers, run: Run, evaluation: bool) -> None:
    """An sbatch that takes the training, and the evaluation only if asked to."""
    refuse = "" if evaluation else ("case \"$*\" in *test-only*) ;; *) sed -n '/job-name=.*evaluate/q9' \"$2\"; "
                                    "[ $? = 9 ] && { echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1; }"
                                    " ;; esac\n")
    answers.script("sbatch", f"{refuse}echo ${{1}} >> {answers.folder}/taken\necho 77\n")


def test_a_chain_of_which_sbatch_refuses_the_evaluation_says_so_and_is_completed_later(answers, tmp_path, capsys):
    run = ended_run(tmp_path / "run", "slurm", attempts=0)
    os.utime(run.submission_file("train"), (1, 1))
    one_job_allowed(answers, run, evaluation=False)
    assert call(resume, run.path) == 0
    output = capsys.readouterr()
    assert "submitted: train 77\n" in output.out
    assert "warning: train 77 is submitted; its evaluation is not submitted (sbatch refused the evaluate job: " \
           "QOSMaxSubmitJobPerUserLimit)" in output.err
    token = run.submission("train")["token"]
    answers(squeue=rows(f"77;RUNNING;None;N/A;{token};"))
    assert call(status, run.path) == 0
    output = capsys.readouterr().out
    assert "running" in output and "its evaluation is not submitted" in output
    assert f"next: python -m ecm_cluster.resume {run.path}" in output
    one_job_allowed(answers, run, evaluation=True)
    assert call(status, run.path) == 0
    assert "not submitted (" not in capsys.readouterr().out
    assert run.submission("evaluate")["job_id"] == "77" and chain.refusal(run) is None


def test_where_the_training_itself_is_refused_nothing_is_submitted(answers, tmp_path, capsys):
    run = ended_run(tmp_path / "run", "slurm", attempts=0)
    os.utime(run.submission_file("train"), (1, 1))
    answers.script("sbatch", "case \"$*\" in *test-only*) ;; *) echo no >&2; exit 1 ;; esac\n")
    assert call(resume, run.path) == 2
    assert chain.refusal(run) is None and submissions.job_ids(run, "train") == ["4194304"]
    assert [job.link for job in submissions.of_run(run) if job.present] == ["train"], "no half of a resume is left"


@pytest.mark.parametrize("flag", ["reservation", "account", "qos", "partition", "constraint", "exclude", "gpu-type"])
def test_a_resume_can_withdraw_a_value(answers, tmp_path, flag):
    name = flag.replace("-", "_")
    run = ended_run(tmp_path / "run", "slurm", attempts=0, **{name: "own"}, device="cuda")
    os.utime(run.submission_file("train"), (1, 1))
    answers(sbatch="77\n")
    assert call(resume, run.path, f"--{flag}", "") == 0
    assert getattr(run.job(), name) is None


def test_a_held_job_has_the_line_that_lets_it_start(answers, tmp_path, capsys):
    run = slurm_run(tmp_path / "run")
    for state, reason in (("PENDING", "JobHeldUser"), ("PENDING", "JobHeldAdmin"), ("SPECIAL_EXIT", "None"),
                          ("REQUEUE_HOLD", "None"), ("PENDING", "launch failed requeued held")):
        answers(squeue=rows(f"7;{state};{reason};N/A;{TOKEN};"))
        assert call(status, run.path) == 0
        assert "\nnext: scontrol release 7\n" in capsys.readouterr().out


def test_a_sweep_of_more_elements_than_an_array_may_have_becomes_several_arrays(answers, small_data, tmp_path, capsys):
    run = ended_run(tmp_path / "run", "slurm", iterations=(2, 4, 6, 8, 10), attempts=1)
    scored = {"type": "LVISFromFile", "ann_file": f"{small_data}/annotations/lvis_v1_val.json", "pipeline": [],
              "img_prefix": str(small_data)}
    run.config_file.write_text(config.dump({"model": {}, "data": {"test": scored}}))
    files.write_json(run.run_file, {**files.read_json(run.run_file), "digests": {"config": "0"}})
    run = Run(run.path)
    os.utime(run.submission_file("train"), (1, 1))
    answers(scontrol=CONFIG.format("alpha") + "MaxArraySize            = 2\n", sbatch="77\n")
    assert call(evaluate, run.path, "--checkpoints", "all") == 0, capsys.readouterr().err
    links = [link for link in submissions.recorded_links(run) if link.startswith("sweep")]
    assert sorted(len(evaluations.read(run, link)) for link in links) == [1, 2, 2]
    assert answers.calls().count("sbatch --parsable") == 3
    at = [element.at for link in links for element in evaluations.read(run, link)]
    assert sorted(at) == sorted(f"iteration {n}" for n in (2, 4, 6, 8, 10))


def test_a_colleague_who_looks_finds_a_job_and_rules_none_out(answers, tmp_path):
    run = slurm_run(tmp_path / "run", user="anna")
    record = run.submission("train")
    lost = {"token": "ecm-cluster:run:train:ffffffffffff", "job_id": None, "user": "anna"}
    files.write_json(run.submission_file("train"), {**record, "job_id": None, "former": [lost]})
    answers(squeue=rows(f"41;PENDING;None;N/A;{TOKEN};"))
    assert call(status, run.path) == 0
    assert "--user anna" in answers.calls()
    record = run.submission("train")
    assert record["job_id"] == "41" and "refused" not in record["former"][0]


def test_a_requeue_of_an_id_that_is_another_jobs_by_now_is_not_tried(answers):
    answers(scontrol="JobId=7 JobName=thesis JobState=RUNNING Restarts=0 Requeue=1 Command=/data/thesis.sh Comment=\n")
    assert not commands.requeue("7", 0, TOKEN) and not commands.cancel("7", TOKEN)
    assert not commands.depend("7", "afterok:6", TOKEN) and not commands.release("7", TOKEN)
    assert set(answers.calls().split("\n")) == {f"{answers.folder}/scontrol -o show job 7", ""}
    answers(scontrol=f"JobId=7 JobState=RUNNING Restarts=0 Requeue=1 Command={SCRIPT} Comment=own\n")
    assert commands.requeue("7", 0, TOKEN) and "scontrol requeue 7" in answers.calls()
