"""Messages about a run: which are due, each sent once, to a server that really listens, and no URL shown anywhere."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from receiver import SECRET, Server, listening
from small import ROOT, await_state, trainer_flags, verb, wait_until
from steering import ended_run

from ecm_cluster import cancel, status, submit
from ecm_cluster.base import files, processes
from ecm_cluster.base.errors import UserError
from ecm_cluster.console import cli
from ecm_cluster.job import job as jobs
from ecm_cluster.job import notify_options
from ecm_cluster.notices import due, entries, send, urls
from ecm_cluster.reporting import state as states
from ecm_cluster.rundir import job_env
from ecm_cluster.rundir.run import Run

pytest.importorskip("apprise")


@pytest.fixture
def server() -> Iterator[Server]:
    with listening() as made:
        yield made


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(send, "PATIENCE", 0.0)


def notified(run: Run, *where: str, **more: Any) -> Run:
    """Give a run made by hand the key."""
    record = files.read_json(run.run_file)
    record["job"]["notify"] = notify_options.masked({"urls": list(where), **more})
    files.write_json(run.run_file, record)
    files.write_text(run.notify_file, "".join(f"{url}\n" for url in where), private=True)
    entries.add(run)
    return Run(run.path)


def now(run: Run) -> states.RunState:
    return states.fold([run])[0]


def look(*paths: Path) -> None:
    assert send.main([str(path) for path in paths]) == 0
    signal.alarm(0)


def record_of(run: Run, name: str, url: int = 1) -> dict[str, Any]:
    return files.read_json(run.notice_file(name, url))


def later(run: Run, name: str) -> None:
    """As if the last try were long ago."""
    files.write_json(run.notice_file(name, 1), {**record_of(run, name), "time": 1.0})


def files_with(folder: Path, text: str) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


# ---------------------------------------------------------------------------------------------- the key


@pytest.mark.parametrize("given, why", [
    ("slack://x", "notify: invalid value of type str; expected a list of apprise URLs, or a block"),
    ({"url": []}, "notify: key: 'url' is unknown (did you mean urls?)"),
    (["nonsense"], "notify: urls: URL 1 is not of the form SERVICE://"),
    (["json://ok", f"json:// {SECRET}"], "notify: urls: URL 2 is not of the form SERVICE://"),
    ({"urls": "json://x"}, "notify: urls: expected a list of at most 20"),
    ({"events": ["end"]}, "notify: events: 'end' is unknown"),
    ({"events": []}, "notify: events: invalid value []; expected a list of done, stopped,"),
    ({"from": "me"}, "notify: from: 'me' is unknown"),
    ({"partition": 3}, "notify: partition: invalid value 3"),
])
def test_what_is_invalid_is_named_and_no_url_is_repeated(given, why):
    with pytest.raises(UserError) as error:
        jobs.make({"notify": given})
    assert str(error.value).startswith(why)
    assert SECRET not in str(error.value)


def test_a_list_is_a_block_and_a_job_file_is_laid_over_the_site_file(tmp_path, monkeypatch):
    site, job = tmp_path / "site.yaml", tmp_path / "job.yaml"
    site.write_text(f"notify: ['json://u:{SECRET}@host']\n")
    job.write_text("notify: {events: [failed]}\n")
    monkeypatch.setenv(jobs.SITE_ENV, str(site))
    found = jobs.load(str(job), {})
    assert found.notify == {"urls": [f"json://u:{SECRET}@host"], "events": ["failed"]}
    assert SECRET not in repr(found) and found.as_record()["notify"]["urls"] == ["json://(set)"]
    job.write_text("notify: []\n")
    assert notify_options.Notify.of(jobs.load(str(job), {}).notify).urls == ()


@pytest.mark.parametrize("url, why", [
    (f"slack://{SECRET}", "notify: URL 2: not a valid URL for slack"),
    ("json://(set)", "notify: URL 2 is from the record of a run"),
])
def test_urls_are_checked_by_apprise_itself(url, why):
    with pytest.raises(UserError) as error:
        urls.check(["json://127.0.0.1/", url])
    assert str(error.value).startswith(why) and SECRET not in str(error.value)


def test_without_apprise_the_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(UserError, match=r"^notify: URL 1: apprise is not installed; pip install 'ecm-cl"):
        urls.check(["json://127.0.0.1/"])


def test_a_submission_with_a_bad_url_ends_with_one_line_and_writes_nothing(tmp_path, capsys):
    job = tmp_path / "job.yaml"
    job.write_text(f"notify: ['foo://{SECRET}']\n")
    assert cli.run(submit.main, [str(job), *trainer_flags(tmp_path / "runs", "a", "--cluster", "local")]) == 2
    said = capsys.readouterr()
    assert said.err == "error: notify: URL 1: apprise has no service foo; see its list of services\n"
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------------------------------------- what is due


def ended(run: Run, cause: str, attempt: int, when: float) -> None:
    """The one end of an attempt."""
    for path in run.ledger_dir.glob(f"{attempt:04d}*"):
        path.unlink()
    run.ledger(attempt, "task000").write("end", cause=cause, detail=f"Slurm: {cause}", rank=0, next="continue")
    path = next(run.ledger_dir.glob(f"{attempt:04d}*"))
    path.write_text("".join(json.dumps({**json.loads(line), "time": when}) + "\n"
                            for line in path.read_text().splitlines()))


def test_the_first_preemption_of_a_day_is_due_and_the_others_are_not(tmp_path):
    run = notified(ended_run(tmp_path / "run", attempts=4, iterations=(10,)), "json://127.0.0.1:9/")
    noon = time.mktime((2026, 3, 28, 12, 0, 0, 0, 0, -1))
    for attempt, (cause, when) in enumerate([("preempted", noon), ("preempted", noon + 3600), ("node failure", noon),
                                             ("requeued", noon + 86400)], 1):
        ended(run, cause, attempt, when)
    found = [n for n in due.find(run, now(run)) if n.event == "preempted"]
    assert [n.name for n in found] == ["preempted-2026-03-28", "preempted-2026-03-29"]
    assert "attempt 1 ended at 12:00: Slurm: preempted; it resumes after iteration 10; further" in found[0].body


def test_each_end_is_a_message_of_its_own(tmp_path):
    run = notified(ended_run(tmp_path / "run", iterations=(10,)), "json://127.0.0.1:9/")
    first = due.find(run, now(run))
    assert [(n.event, n.name) for n in first] == [("failed", "failed-r0-a1")]
    assert "run failed: " in first[0].body and "next: " in first[0].body and "iteration 10" in first[0].body
    run.ledger(1, "resume").write("resumed", stages=["train"], overrides={})
    assert [n.name for n in due.find(run, now(run))] == ["failed-r1-a1"]
    assert due.find(notified(run, "json://127.0.0.1:9/", events=["done"]), now(run)) == []


def test_commits_that_fail_are_due_once_for_the_checkpoint_that_stands(tmp_path):
    run = notified(ended_run(tmp_path / "run", iterations=(10,)), "json://127.0.0.1:9/")
    run.write_heartbeat(1, iteration=30, commits_fail={"stands": 10, "seconds": 7200.0, "reason": "disk full"})
    state = now(run)
    state.state = "running"
    found, = due.find(run, state)
    assert found.name == "commits-fail-a1-i10"
    assert "run cannot write checkpoints: commits have failed for 2 h (disk full); the checkpoint of iteration 10" \
        in found.body


# ---------------------------------------------------------------------------------------------- sending


def test_a_message_is_sent_once_to_each_url_and_then_the_run_is_not_looked_at_any_more(tmp_path, server):
    run = notified(ended_run(tmp_path / "runs" / "run"), server.url, server.url)
    assert [r.path for r in entries.runs(tmp_path / "runs")] == [run.path]
    for _ in range(3):
        look(tmp_path / "runs")
        look(run.path)
    assert server.events() == ["ecm-cluster: run failed"] * 2
    assert entries.runs(tmp_path / "runs") == []
    assert record_of(run, "failed-r0-a1", 2)["state"] == "sent"
    assert files_with(run.path, SECRET) == [run.notify_file.name]
    assert stat.S_IMODE(run.notify_file.stat().st_mode) == 0o600


def test_a_message_that_cannot_arrive_is_sent_again_later_and_verbs_say_so(tmp_path, server, capsys):
    server.status = 503
    run = notified(ended_run(tmp_path / "runs" / "run"), server.url)
    look(run.path)
    look(run.path)  # too early for another try
    assert record_of(run, "failed-r0-a1")["tries"] == 1
    assert cli.run(status.main, ["--runs-dir", str(tmp_path / "runs")]) == 0
    assert "warning: run: the message 'failed' to URL 1 (json) is not sent yet: the server answered 503; tried again " \
        "by a later command" in capsys.readouterr().err
    later(run, "failed-r0-a1")
    server.status = 200
    look(run.path)
    look(run.path)
    assert server.events() == ["ecm-cluster: run failed"]
    assert "(json): failed (the server answered 503)" in run.notices_log.read_text()
    assert entries.runs(tmp_path / "runs") == []


def test_after_so_many_tries_the_message_is_a_warning_in_the_state(tmp_path):
    run = notified(ended_run(tmp_path / "runs" / "run"), f"json://u:{SECRET}@127.0.0.1:9/")
    for _ in send.PAUSES:
        look(run.path)
        later(run, "failed-r0-a1")
    assert record_of(run, "failed-r0-a1")["state"] == "given up"
    assert "warning: the message 'failed' to URL 1 (json) was not sent: connection refused" in now(run).reason
    assert entries.runs(tmp_path / "runs") == [] and files_with(run.path, SECRET) == [run.notify_file.name]


def test_a_message_that_may_have_arrived_is_not_sent_again(tmp_path, server):
    server.status = 0
    run = notified(ended_run(tmp_path / "runs" / "run"), server.url)
    look(run.path)
    server.status = 200
    look(run.path)
    assert server.events() == ["ecm-cluster: run failed"]  # it had arrived
    assert "may not have arrived: the connection was lost before the server answered" in now(run).reason


@pytest.mark.slow
def test_a_sender_that_dies_while_it_sends_does_not_make_it_two(tmp_path, server):
    run = notified(ended_run(tmp_path / "runs" / "run"), server.url)
    sender = [*processes.command(sys.executable, "notices"), str(run.path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ECM_CLUSTER_KILL_AT": "notice-begun"}
    done = subprocess.run(sender, env=env, check=False)
    assert done.returncode == -signal.SIGKILL and record_of(run, "failed-r0-a1")["state"] == "sending"
    look(run.path)
    assert server.got == []  # another process may still be at it
    later(run, "failed-r0-a1")
    look(run.path)
    assert server.got == [] and "may not have arrived: the process that sent it died" in now(run).reason


def test_an_entry_without_its_run_is_removed_and_a_directory_of_another_is_not_read(tmp_path):
    run = notified(ended_run(tmp_path / "runs" / "run"), "json://127.0.0.1:9/")
    run.path.rename(tmp_path / "elsewhere")
    look(tmp_path / "runs")
    assert entries.runs(tmp_path / "runs") == []
    run.notices_due.parent.rename(tmp_path / "theirs")
    run.notices_due.parent.symlink_to(tmp_path / "theirs")
    (tmp_path / "theirs" / "run").touch()
    assert entries.runs(tmp_path / "runs") == []


def test_a_verb_starts_a_process_only_where_something_may_be_due(tmp_path, monkeypatch):
    started: list[object] = []
    monkeypatch.setattr(entries, "start", started.append)
    (tmp_path / "runs").mkdir()
    run = ended_run(tmp_path / "runs" / "run")
    assert cli.run(status.main, ["--runs-dir", str(tmp_path / "runs")]) == 0
    assert started == []
    notified(run, "json://127.0.0.1:9/")
    for _ in range(2):  # the second is too soon
        assert cli.run(status.main, ["--runs-dir", str(tmp_path / "runs")]) == 0
    assert started == [tmp_path / "runs"]
    assert cli.run(cancel.main, [str(run.path)]) == 0  # which has changed something
    assert len(started) == 2


@pytest.mark.slow
def test_four_senders_at_once_send_one_message(tmp_path, server):
    run = notified(ended_run(tmp_path / "runs" / "run"), server.url)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    state = now(run)
    code = ("import sys; from ecm_cluster.notices import send; from ecm_cluster.rundir.run import Run; "
            "from ecm_cluster.reporting import state; r = Run(sys.argv[1]); "
            "[send.send_due(r, state.fold([r])[0]) for _ in range(4)]")
    many = [subprocess.Popen([sys.executable, "-c", code, str(run.path)], env=env) for _ in range(4)]
    assert [one.wait(120) for one in many] == [0] * 4 and state.state == "failed"
    assert server.events() == ["ecm-cluster: run failed"]


# ---------------------------------------------------------------------------------------------- real runs


def start(tmp_path: Path, server: Server, name: str, seconds: float = 0.02) -> Run:
    job = tmp_path / "job.yaml"
    job.write_text(f"notify: ['{server.url}']\n")
    words = [job, *trainer_flags(tmp_path / "runs", name, "--cluster", "local", "--no-check", seconds=seconds)]
    done = verb("submit", *words)
    assert SECRET not in done.stdout + done.stderr
    return Run(tmp_path / "runs" / name)


@pytest.mark.slow
def test_of_real_runs_each_end_is_reported_once_without_any_verb(tmp_path, server):
    good, bad = start(tmp_path, server, "good"), start(tmp_path, server, "bad", seconds=-1.0)
    wait_until(lambda: len(server.got) >= 2, "both messages", 120)
    victim = start(tmp_path, server, "victim", seconds=1.0)
    await_state(victim, "running")
    verb("cancel", victim.path)
    wait_until(lambda: len(server.got) >= 3, "the third message", 120)
    many = [subprocess.Popen([sys.executable, "-m", "ecm_cluster.status", "--runs-dir", str(tmp_path / "runs")],
                             cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [one.wait(120) for one in many] == [0] * 4
    look(tmp_path / "runs")
    assert sorted(server.events()) == ["ecm-cluster: bad failed", "ecm-cluster: good done",
                                       "ecm-cluster: victim stopped"]
    for run in (good, bad, victim):
        assert files_with(run.path, SECRET) == [run.notify_file.name]
        assert job_env.urls(run) == [server.url]
    verb("resume", victim.path)
    assert [run.name for run in entries.runs(tmp_path / "runs")] == ["victim"]
    verb("cancel", victim.path)
    wait_until(lambda: len(server.got) >= 4, "the message of the second cancellation", 120)
    assert server.events()[3] == "ecm-cluster: victim stopped"


@pytest.mark.slow
def test_a_server_that_is_down_at_the_end_gets_the_message_by_a_later_verb(tmp_path, server):
    server.status = 500
    run = start(tmp_path, server, "good")
    wait_until(lambda: run.notice_file("done", 1).exists() and record_of(run, "done")["state"] == "failed",
               "the first try", 120)
    server.status = 200
    later(run, "done")
    wait_until(lambda: "not sent yet" in verb("status", run.path, "--runs-dir", run.path.parent).stderr
               or server.got, "the warning", 60)
    wait_until(lambda: server.got, "the message", 60)
    assert server.events() == ["ecm-cluster: good done"]
