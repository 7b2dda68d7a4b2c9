"""One user attacks another who uses the program as usual: what must not come of it.

Both have no privileges. The attacker owns folders of his own, and may write where everybody may: scratch, a folder of
runs with the sticky bit, a shared cache. What he does is a shell script under his uid.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from small import ROOT, job_flags, logs_of, make_data, wait_until
from users import ATTACKER, VICTIM, acting_as, command_as, environment, home_of, needs_root, run_as, shared_folder

from ecm_cluster import status
from ecm_cluster.backends import driver
from ecm_cluster.console import cli
from ecm_cluster.rundir.run import Run

pytestmark = [pytest.mark.slow, needs_root]


class Machine:
    """A shared folder, two homes, and a data set that both can read."""

    def __init__(self, folder: Path) -> None:
        self.shared = shared_folder()
        self.home = {uid: home_of(uid, folder) for uid in (VICTIM, ATTACKER)}
        self.data = make_data(folder / "data")
        self.traps = self.shared / "traps"  # files here say that code of the attacker's ran

    def victim(self, *command: Any, cwd: Path | None = None, code: int | None = 0,
               **env: str) -> subprocess.CompletedProcess[str]:
        home = self.home[VICTIM]
        done = run_as(VICTIM, *map(str, command), cwd=cwd or home, env=environment(home, **env))
        assert code is None or done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def attacker(self, script: str) -> None:
        """Runs in the shared folder, with a umask that leaves all he makes open."""
        home = self.home[ATTACKER]
        done = run_as(ATTACKER, "bash", "-euc", f"umask 000; mkdir -p traps; {script}", cwd=self.shared,
                      env=environment(home))
        assert done.returncode == 0, done.stderr

    def nothing_ran(self) -> None:
        """No code of the attacker's ran as the victim."""
        assert [p.name for p in self.traps.iterdir() if p.stat().st_uid == VICTIM] == []


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    # not below pytest's own folder, which each session that starts closes to others again
    with tempfile.TemporaryDirectory(prefix="ecm-cluster-two-users-") as folder:
        os.chmod(folder, 0o755)
        yield Machine(Path(folder))


def test_a_config_or_job_file_of_another_user_does_not_stand_in_for_a_shipped_one(machine: Machine) -> None:
    machine.attacker("""
        mkdir -p here/configs/ecm; cd here
        echo 'import pathlib; pathlib.Path("../traps/config").touch()' > configs/ecm/mask_rcnn_r50_1x.py
        echo 'setup: ["touch ../traps/job"]' > demo""")
    for words, named in (([], "config: 'configs/ecm/mask_rcnn_r50_1x.py' in this directory belongs to another user"),
                         (["demo"], "JOB: 'demo' in this directory belongs to another user")):
        done = machine.victim("ecm-cluster", "submit", *words, "--dry-run", "--cluster", "local", code=2,
                              cwd=machine.shared / "here")
        assert named in done.stderr
    machine.nothing_ran()


def test_no_verb_imports_from_the_folder_that_it_is_typed_in(machine: Machine) -> None:
    machine.attacker("""
        mkdir -p cwd/ecm_cluster cwd/mmdet_ext cwd/numpy cwd/runs; cd cwd
        for m in json yaml torch typing argparse random submitit mmcv mmdet xxhash rich sitecustomize; do
          echo "import pathlib; pathlib.Path('$PWD/../traps/$m').touch()" > $m.py
        done
        for m in ecm_cluster mmdet_ext numpy; do cp json.py $m/__init__.py; done
        git init -q . && git config core.fsmonitor "touch $PWD/../traps/git; :" """)
    cwd = machine.shared / "cwd"
    machine.victim("ecm-cluster", "status", cwd=cwd)
    machine.victim("ecm-cluster", "submit", "demo", "--dry-run", "--cluster", "local", "--data-root", machine.data,
                   "--code", machine.home[VICTIM], cwd=cwd)
    machine.nothing_ran()


def test_git_is_not_asked_about_a_checkout_of_another_user(machine: Machine) -> None:
    machine.attacker("""mkdir -p checkout; cd checkout; git init -q .
        git config core.fsmonitor "touch $PWD/../traps/git; :" """)
    script = ("from pathlib import Path; from ecm_cluster.freeze import git; "
              "print(git.state(Path('checkout/mine'), ['.']))")
    done = machine.victim("sh", "-c", f'mkdir checkout/mine && python -c "{script}"', cwd=machine.shared)
    assert done.stdout == "{'commit': None, 'dirty': None}\n"
    machine.nothing_ran()


# -- a training of the victim's, while it runs and when it has ended


@dataclass
class Seen:
    """What others could see of a training while it ran."""

    run: Run
    shown: set[str] = field(default_factory=set)  # command lines with the secret
    holders: set[str] = field(default_factory=set)  # those of processes that have it in their environment
    addresses: set[str] = field(default_factory=set)  # on which its processes listened


def pids_of(uid: int) -> list[Path]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if folder.stat().st_uid == uid:
                found.append(folder)
    return found


def listening(pids: list[Path]) -> Iterator[str]:
    """Addresses on which processes listen, as the kernel spells them: 0100007F is 127.0.0.1."""
    sockets = set()
    for folder in pids:
        with suppress(OSError):
            sockets |= {os.readlink(opened)[len("socket:["):-1] for opened in (folder / "fd").iterdir()}
    for name in ("tcp", "tcp6"):
        for row in Path("/proc/net", name).read_text().splitlines()[1:]:
            words = row.split()
            if words[3] == "0A" and words[9] in sockets:
                yield words[1].rpartition(":")[0]


SECRET = "s3cret-of-the-victim"


def submitted(machine: Machine, name: str, line: str, *flags: str) -> Run:
    """A local run of the victim's whose umask is open, whose setup is one line, and whose ``env`` holds a secret."""
    job, runs = machine.home[VICTIM] / f"{name}.yaml", machine.shared / "runs"
    job.write_text((ROOT / "jobs/demo.yaml").read_text() + f"setup: ['{line}']\nenv: {{API_KEY: {SECRET}}}\n")
    for folder in (runs, runs / "scratch"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o1777)
    machine.victim("sh", "-c", 'umask 000; exec "$@"', "sh", "ecm-cluster", "submit", job, "--cluster", "local",
                   "--no-check", *job_flags(machine.data, runs, name)[1:], *flags)
    return Run(runs / name)


@pytest.fixture(scope="module")
def trained(machine: Machine) -> Seen:
    """A training and its evaluation, looked at until they have ended."""
    seen = Seen(submitted(machine, "victims", "true", "--gpus", 2))  # one rank alone meets nobody
    while driver.find(seen.run) or driver.ranks(seen.run):
        pids = pids_of(VICTIM)
        for folder in pids:
            with suppress(OSError):
                line = (folder / "cmdline").read_text(errors="replace")
                if SECRET in line:
                    seen.shown.add(line)
                if f"API_KEY={SECRET}" in (folder / "environ").read_text(errors="replace"):
                    seen.holders.add(line)
        seen.addresses |= set(listening(pids))
        time.sleep(0.05)
    assert seen.run.completion(), logs_of(seen.run)
    return seen


def test_a_secret_is_in_no_command_line_and_in_one_file_of_the_owners_alone(trained: Seen, machine: Machine) -> None:
    run = trained.run
    assert trained.shown == set()
    assert any("ecm_cluster.node" in line for line in trained.holders), trained.holders
    assert {str(p) for p in run.path.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()
            } == {str(run.env_file)}
    machine.attacker(f"! cat {run.env_file} && ! cat {run.run_file} && ! ls {run.path}")
    for verb in ("status", "evaluate"):
        done = run_as(ATTACKER, "ecm-cluster", verb, str(run.path), env=environment(machine.home[ATTACKER]),
                      cwd=machine.shared)
        assert done.returncode in (1, 2) and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_training_on_one_node_listens_on_loopback_alone(trained: Seen) -> None:
    assert trained.addresses and trained.addresses <= {"0100007F", "0" * 24 + "01000000"}, trained.addresses


def test_others_can_change_none_of_a_run_regardless_of_the_umask(trained: Seen, machine: Machine) -> None:
    assert trained.run.path.stat().st_mode & 0o077 == 0
    done = run_as(ATTACKER, "find", trained.run.path.parent, "-user", str(VICTIM), "-writable",
                  env=environment(machine.home[ATTACKER]))
    assert done.stdout == ""


def test_a_run_that_is_shared_can_be_read_by_others_except_its_secrets(machine: Machine) -> None:
    run = submitted(machine, "shared", "exit 3", "--share", "all")
    wait_until(lambda: not driver.find(run), "the driver to end")
    done = run_as(ATTACKER, "ecm-cluster", "status", str(run.path), env=environment(machine.home[ATTACKER]),
                  cwd=machine.shared)
    assert done.returncode == 0, done.stderr
    assert "shared" in done.stdout
    machine.attacker(f"! cat {run.env_file} && ! grep -r {SECRET} {run.path} && ! touch {run.path}/x")
    writable = [p for p in [run.path, *run.path.rglob("*")] if p.lstat().st_mode & 0o022 and not p.is_symlink()]
    assert writable == []


# -- a run of the attacker's in a folder of runs that the victim looks through


class TooLong(BaseException):
    """No ``Exception``, which the program may handle."""


@contextmanager
def within(seconds: int, what: object) -> Iterator[None]:
    """In this time, and with memory that an endless file uses up soon."""
    def give_up(*_: object) -> None:
        raise TooLong(f"{what}: not done after {seconds} s")

    before, (soft, hard) = signal.signal(signal.SIGALRM, give_up), resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])  # less than what is mapped leaves the stack no room
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (4 << 30), hard))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    os.truncate(path, 20 << 30)


def deep(path: Path) -> None:
    path.write_text("[" * 100_000 + "\n")


def no_json(path: Path) -> None:
    path.write_bytes(b"\xff\x00\x1b]52;c;aGk=\x07\x1b[2J null\n")


def another_type(path: Path) -> None:
    path.write_text('{"a": [' + "1" * 5000 + ']}\n"text"\n[]\nnull\n')


def closed(path: Path) -> None:
    path.chmod(0)


DAMAGES = (fifo, endless, huge, deep, no_json, another_type, closed)


@pytest.fixture
def hostile(trained: Seen, machine: Machine, capsys: pytest.CaptureFixture[str]) -> Iterator[Path]:
    """A folder of runs with one run, which is the attacker's and may be changed here."""
    folder = machine.shared / "hostile"
    folder.mkdir()
    shutil.copytree(trained.run.path, folder / "evil")
    for at, folders, names in os.walk(folder):
        os.chmod(at, 0o755)
        for name in names:
            os.chmod(os.path.join(at, name), 0o644)
        for name in [".", *folders, *names]:
            os.chown(os.path.join(at, name), ATTACKER, ATTACKER)
    assert cli.run(status.main, ["--runs-dir", str(folder)]) == 0  # imports what the victim may not be able to read
    capsys.readouterr()
    yield folder
    shutil.rmtree(folder)


def looked_at(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What ``status`` prints, to a victim who looks."""
    with acting_as(VICTIM), within(5, words):
        code = cli.run(status.main, [*words, "--runs-dir", str(folder)])
    said = capsys.readouterr()
    assert code in (0, 2) and "Traceback" not in said.err, said.err
    assert re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", said.out + said.err) is None, repr(said.out + said.err)
    return said.out + said.err


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_matter_what_stands_in_anothers_run_status_answers_in_time_and_in_plain_text(
        damage: Callable[[Path], None], hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, faults = hostile / "evil", []
    for path in sorted(p for p in run.rglob("*") if p.is_file() and "code" not in p.parts):
        before, mode = path.read_bytes(), path.stat().st_mode
        damage(path)
        for words in ((), (str(run),)):
            try:
                looked_at(hostile, capsys, *words)
            except (AssertionError, TooLong) as error:
                faults.append(f"{path.relative_to(run)} {'one' if words else 'all'}: {str(error)[:200]}")
        path.unlink()
        path.write_bytes(before)
        path.chmod(mode)
    assert faults == []


def test_no_verb_acts_on_what_a_run_of_anothers_names(hostile: Path, machine: Machine) -> None:
    run, home = hostile / "evil", machine.home[VICTIM]
    machine.victim("sh", "-c", "mkdir -p work && echo mine > work/iter_0000001-a0001.pth && chmod 700 work")
    (run / "config.py").write_text(f"import pathlib\npathlib.Path({str(machine.traps / 'config')!r}).touch()\n")
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(home / "work")
    with subprocess.Popen(command_as(VICTIM, "sleep", "30")) as bystander:
        record = run / "submissions" / "train.json"
        found = json.loads(record.read_text())
        pid = wait_until(lambda: next((p.name for p in pids_of(VICTIM) if (p / "comm").read_text() == "sleep\n"), None),
                         "a process of the victim's")
        for job_id, cluster in ((pid, "local"), ("-1", "local"), ("--me", "slurm")):
            record.write_text(json.dumps({**found, "job_id": job_id, "cluster": cluster}))
            for verb in ("cancel", "resume", "clean", "evaluate"):
                flags = ["--dry-run"] if verb == "evaluate" else []
                done = machine.victim("ecm-cluster", verb, run, *flags, code=2)
                assert re.search("^error: .*(belongs to|is not executed)", done.stderr), done.stderr
                assert len(done.stderr.splitlines()) == 1, done.stderr
            machine.victim("ecm-cluster", "status", "--runs-dir", hostile)
            machine.victim("ecm-cluster", "compare", run, run, code=None)
        assert bystander.poll() is None
        os.kill(int(pid), signal.SIGKILL)
    assert [p.name for p in (home / "work").iterdir()] == ["iter_0000001-a0001.pth"]
    machine.nothing_ran()


def test_a_run_folder_that_another_user_has_made_in_advance_is_not_used(machine: Machine) -> None:
    runs = machine.shared / "runs"
    runs.mkdir(exist_ok=True)
    runs.chmod(0o1777)
    machine.victim("mkdir", "empty")
    machine.attacker(f"cd runs; mkdir made; ln -s {machine.home[VICTIM] / 'empty'} linked; mkdir made/code")
    for name in ("made", "linked"):
        done = machine.victim("ecm-cluster", "submit", "demo", "--cluster", "local", "--no-check",
                              *job_flags(machine.data, runs, name)[1:], code=2)
        assert "belongs to another user" in done.stderr
    assert list((machine.home[VICTIM] / "empty").iterdir()) == []
    assert [p.name for p in (runs / "made").iterdir()] == ["code"]
