"""One user attacks another who uses the program as usual: what must not come of it.

Both have no privileges. The attacker owns folders of his own, and may write where everybody may: scratch, a folder of
runs with the sticky bit, a shared cache. What he does is a shell script under his uid.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from small import ROOT, job_flags, logs_of, make_data, wait_until
from users import ATTACKER, VICTIM, environment, home_of, needs_root, run_as, shared_folder

from ecm_cluster import driver
from ecm_cluster.run import Run

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
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"))


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


SECRET = "s3cret-of-the-victim"


def submitted(machine: Machine, name: str, line: str, *flags: str) -> Run:
    """A local run of the victim's whose setup is one line, and whose environment holds a secret."""
    job = machine.home[VICTIM] / f"{name}.yaml"
    job.write_text((ROOT / "jobs/demo.yaml").read_text() + f"setup: ['{line}']\nenv: {{API_KEY: {SECRET}}}\n")
    words = job_flags(machine.data, machine.shared / "runs", name)
    machine.victim("ecm-cluster", "submit", job, *words[1:], "--cluster", "local", "--no-check", "--no-eval", *flags)
    return Run(machine.shared / "runs" / name)


def test_a_run_is_closed_to_others_and_no_process_of_it_shows_a_secret(machine: Machine) -> None:
    run = submitted(machine, "closed", "true")
    holders: set[str] = set()
    while driver.find(run) or driver.ranks(run):
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                assert SECRET not in (process / "cmdline").read_text(), process
                if f"API_KEY={SECRET}" in (process / "environ").read_text():
                    holders.add((process / "cmdline").read_text())
        time.sleep(0.05)
    assert any("ecm_cluster.node" in line for line in holders), holders
    assert run.completion(), logs_of(run)
    assert {str(p) for p in run.path.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()
            } == {str(run.env_file)}
    done = run_as(ATTACKER, "ls", run.path, env=environment(machine.home[ATTACKER]))
    assert "Permission denied" in done.stderr
    machine.attacker(f"! cat {run.env_file} && ! cat {run.run_file}")
    for verb in ("status", "evaluate"):
        done = run_as(ATTACKER, "ecm-cluster", verb, str(run.path), env=environment(machine.home[ATTACKER]),
                      cwd=machine.shared)
        assert done.returncode in (1, 2) and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_run_that_is_shared_can_be_read_by_others_but_for_its_secrets(machine: Machine) -> None:
    run = submitted(machine, "shared", "exit 3", "--share", "all")
    wait_until(lambda: not driver.find(run), "the driver to end")
    done = run_as(ATTACKER, "ecm-cluster", "status", str(run.path), env=environment(machine.home[ATTACKER]),
                  cwd=machine.shared)
    assert done.returncode == 0, done.stderr
    assert "shared" in done.stdout
    machine.attacker(f"! cat {run.env_file} && ! grep -r {SECRET} {run.path} && ! touch {run.path}/x")
    writable = [p for p in [run.path, *run.path.rglob("*")] if p.lstat().st_mode & 0o022 and not p.is_symlink()]
    assert writable == []
