"""One user attacks another who uses the program as usual: what must not come of it.

Both have no privileges. The attacker owns folders of his own, and may write where everybody may: scratch, a folder of
runs with the sticky bit, a shared cache. What he does is a shell script under his uid.
"""

from __future__ import annotations

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
from small import job_flags, make_data
from users import ATTACKER, VICTIM, acting_as, command_as, environment, home_of, needs_root, run_as, shared_folder

from ecm_cluster import cli, status

pytestmark = [pytest.mark.slow, needs_root]


class Machine:
    """A shared folder, two homes, and a data set that both can read."""

    def __init__(self, folder: Path) -> None:
        self.shared = shared_folder(folder)
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


def test_a_config_or_job_file_of_somebody_else_does_not_stand_in_for_a_shipped_one(machine: Machine) -> None:
    machine.attacker("""
        mkdir -p here/configs/ecm; cd here
        echo 'import pathlib; pathlib.Path("../traps/config").touch()' > configs/ecm/mask_rcnn_r50_1x.py
        echo 'setup: ["touch ../traps/job"]' > demo""")
    for words, named in (([], "config: 'configs/ecm/mask_rcnn_r50_1x.py' in this folder belongs to another user"),
                         (["demo"], "JOB: 'demo' in this folder belongs to another user")):
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


def test_git_is_not_asked_about_a_checkout_of_somebody_else(machine: Machine) -> None:
    machine.attacker("""mkdir -p checkout; cd checkout; git init -q .
        git config core.fsmonitor "touch $PWD/../traps/git; :" """)
    script = "from pathlib import Path; from ecm_cluster import git; print(git.state(Path('checkout/mine'), ['.']))"
    done = machine.victim("sh", "-c", f'mkdir checkout/mine && python -c "{script}"', cwd=machine.shared)
    assert done.stdout == "{'commit': None, 'dirty': None}\n"
    machine.nothing_ran()


# -- a training of the victim's, while it runs and when it has ended


@dataclass
class Seen:
    """What others could see of a training while it ran."""

    run: Path
    secret: str
    shown: set[str] = field(default_factory=set)  # command lines with the secret
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


@pytest.fixture(scope="module")
def trained(machine: Machine) -> Seen:
    """Submitted with a umask that leaves everything open, and with a secret in ``env:``."""
    home, runs = machine.home[VICTIM], machine.shared / "runs"
    for folder in (runs, runs / "scratch"):
        folder.mkdir()
        folder.chmod(0o1777)
    secret = "s3cret-API-key"
    job = home / "job.yaml"
    job.write_text(f"config: configs/demo.py\ndevice: cpu\nmem_per_gpu: 3G\ncpus_per_gpu: 1\nenv: {{KEY: {secret}}}\n")
    flags = job_flags(machine.data, runs, "victims")[1:]
    seen = Seen(runs / "victims", secret)
    process = subprocess.Popen(
        command_as(VICTIM, "sh", "-c", 'umask 000; exec "$@"', "sh", "ecm-cluster", "submit", job, "--cluster", "local",
                   *flags, "--wait"), cwd=machine.shared, env=environment(home), stdout=subprocess.PIPE, text=True,
        stderr=subprocess.STDOUT)
    while process.poll() is None:
        pids = pids_of(VICTIM)
        for folder in pids:
            with suppress(OSError):
                line = (folder / "cmdline").read_bytes().decode(errors="replace")
                if secret in line:
                    seen.shown.add(line)
        seen.addresses |= set(listening(pids))
        time.sleep(0.1)
    assert process.returncode == 0, process.communicate()[0]
    return seen


def test_a_secret_of_the_job_is_in_no_command_line_and_in_no_file_that_others_can_read(trained: Seen) -> None:
    assert trained.shown == set()
    for path in trained.run.rglob("*"):
        if path.is_file() and trained.secret.encode() in path.read_bytes():
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_training_on_one_node_listens_on_loopback_alone(trained: Seen) -> None:
    assert trained.addresses and trained.addresses <= {"0100007F", "0" * 24 + "01000000"}, trained.addresses


def test_others_can_change_nothing_of_a_run_whatever_the_umask(trained: Seen, machine: Machine) -> None:
    assert trained.run.stat().st_mode & 0o077 == 0
    done = run_as(ATTACKER, "find", machine.shared / "runs", "-user", str(VICTIM), "-writable", env=environment(machine.home[ATTACKER]))
    assert done.stdout == ""
    machine.nothing_ran()


# -- a run of the attacker's in a folder of runs that the victim looks through


class TooLong(BaseException):
    """No ``Exception``, which the program may handle."""


@contextmanager
def within(seconds: int, what: object) -> Iterator[None]:
    """In this time, and with memory that an endless file uses up soon."""
    def give_up(*_: object) -> None:
        raise TooLong(f"{what}: not done after {seconds} s")

    before, (soft, hard) = signal.signal(signal.SIGALRM, give_up), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, hard))
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


SPOILT = (fifo, endless, huge, deep, no_json, another_type, closed)


@pytest.fixture
def hostile(trained: Seen, machine: Machine, capsys: pytest.CaptureFixture[str]) -> Iterator[Path]:
    """A folder of runs with one run, which is the attacker's and may be changed here."""
    folder = machine.shared / "hostile"
    folder.mkdir()
    shutil.copytree(trained.run, folder / "evil")
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


@pytest.mark.parametrize("spoil", SPOILT)
def test_whatever_stands_in_anothers_run_status_answers_in_time_and_in_plain_text(
        spoil: Callable[[Path], None], hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, faults = hostile / "evil", []
    for path in sorted(p for p in run.rglob("*") if p.is_file() and "code" not in p.parts):
        before, mode = path.read_bytes(), path.stat().st_mode
        spoil(path)
        for words in ((), (str(run),)):
            try:
                looked_at(hostile, capsys, *words)
            except (AssertionError, TooLong) as error:
                faults.append(f"{path.relative_to(run)} {'one' if words else 'all'}: {str(error)[:200]}")
        path.unlink()
        path.write_bytes(before)
        path.chmod(mode)
    assert faults == []
