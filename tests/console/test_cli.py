"""What all verbs share: how they are called is how they tell the user to call them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from small import ROOT

from ecm_cluster.__main__ import VERBS
from ecm_cluster.console import cli

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


def test_two_dashes_are_not_the_value_of_an_option(capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.slow
@pytest.mark.parametrize(("code", "said"), [
    ("raise ImportError('libfoo.so.1: cannot open')", "error: libfoo.so.1: cannot open; a required package is"),
    ("import nope(", "error: unexpected SyntaxError: invalid syntax"), ("raise MemoryError", "error: out of memory; "),
    ("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)", "interrupted"),
    ("class A:\n    def __del__(self): raise KeyboardInterrupt\nA()\nimport time; time.sleep(5)", "interrupted")])
def test_any_error_while_modules_are_imported_is_one_line(code: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "difflib.py").write_text(code + "\n")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "TMPDIR": str(tmp_path)}
    for words in ([sys.executable, "-m", "ecm_cluster.status"], [str(SCRIPT), "status"]):
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
        assert done.stderr.startswith(said) and done.stderr.count("\n") == 1, done.stderr
        assert done.returncode == (-2 if said == "interrupted" else 1)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "times", "word"), [
    (signal.SIGINT, 3, "interrupted"), (signal.SIGTERM, 1, "terminated"), (signal.SIGHUP, 1, "hung up")])
def test_a_signal_lets_a_verb_undo_what_it_began(number: signal.Signals, times: int, word: str) -> None:
    code = ("import sys, time; sys.argv = ['ecm-cluster']; from ecm_cluster.console import cli\n"
            "def main(argv):\n    try: print('begun', flush=True); time.sleep(20)\n"
            "    finally: time.sleep(0.5); print('undone', flush=True)\n"
            "sys.exit(cli.run(main))")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.1)
    assert process.communicate(timeout=30) == ("undone\n", f"{word}\n")
    assert process.returncode == 128 + number
