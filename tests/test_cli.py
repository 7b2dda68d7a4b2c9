"""What all verbs share: how they are called is how they tell the user to call them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from small import ROOT

from ecm_cluster import cli
from ecm_cluster.__main__ import VERBS

SCRIPT = Path(sysconfig.get_path("scripts"), "ecm-cluster")


def call(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True, check=False,
                          timeout=60)


@pytest.mark.parametrize("words", [["status"], ["status", "nosuch"], ["compare", "nosuch", "a"], ["submit", "--help"],
                                   ["evaluate", "--help"], ["stage", "pack", "--help"]], ids=" ".join)
def test_hints_use_the_form_in_which_the_program_was_called(words: list[str], tmp_path: Path) -> None:
    module = call(sys.executable, "-m", f"ecm_cluster.{words[0]}", *words[1:], cwd=tmp_path)
    script = call(SCRIPT, *words, cwd=tmp_path)
    assert "python -m ecm_cluster." in module.stdout + module.stderr
    said = (module.stdout + module.stderr).replace("python -m ecm_cluster.", "ecm-cluster ")
    assert (script.stdout + script.stderr).split() == said.split()


def test_no_message_prints_a_command_line_in_one_form_only() -> None:
    """A line with a command goes through cli.say or an error, never through a bare print."""
    for path in sorted((ROOT / "ecm_cluster").rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not ("python -m ecm_cluster." in line and line.lstrip().startswith("print(")), f"{path}:{number}"


def test_two_dashes_are_no_value_of_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    made = cli.Parser(prog="x")
    made.add_argument("--threads", type=int)
    with pytest.raises(SystemExit):
        made.parse_args(["--threads=--"])
    assert "argument --threads: " in capsys.readouterr().err


def test_as_typed_leaves_other_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/bin/ecm-cluster", "status"])
    assert [cli.as_typed(f"see python -m ecm_cluster.{verb} x") for verb in VERBS] == \
        [f"see ecm-cluster {verb} x" for verb in VERBS]
    assert cli.as_typed("python -m pip") == "python -m pip"


def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "difflib.py").write_text("raise KeyboardInterrupt\n")
    done = subprocess.run([sys.executable, "-m", "ecm_cluster.status"], capture_output=True, text=True, check=False,
                          cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (-2, "interrupted\n")
