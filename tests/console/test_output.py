"""What verbs print: a terminal acts on nothing that comes from data, and nobody has to read it to its end."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ecm_cluster import status
from ecm_cluster.base.errors import UserError
from ecm_cluster.console import cli, output, program
from ecm_cluster.reporting.state import RunState

EVIL = "a\x1b]52;c;Zm9v\x07b\x1b[2Jc\x9bd\x00e\x7ff\u202eg\u2066h\udce4i\rj\x85k\u2028l"
SHOWN = r"a\x1b]52;c;Zm9v\x07b\x1b[2Jc\x9bd\x00e\x7ff\u202eg\u2066h\udce4i\rj\x85k\u2028l"


def printed(call: Callable[[], object], monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> tuple[int, str]:
    """Exit code, and all that reaches the two real streams."""
    raw = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2)]
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", raw[0])
        patched.setattr(sys, "stderr", raw[1])
        code = cli.run(lambda argv: int(bool(call())))
    return code, "".join(stream.buffer.getvalue().decode(encoding) for stream in raw)  # type: ignore[attr-defined]


def test_what_a_terminal_acts_on_is_spelled() -> None:
    assert output.printable(EVIL) == SHOWN
    assert output.printable("a\tb\nc äöü – 日本 [red]") == "a\tb\nc äöü – 日本 [red]"
    for number in (*range(0x20), *range(0x7f, 0xa0), *range(0x202a, 0x202f), *range(0x2066, 0x206a), 0xd800, 0xdfff):
        if chr(number) not in "\t\n":
            assert output.printable(chr(number)).isascii() and output.printable(chr(number)).isprintable(), hex(number)


def raising(error: BaseException) -> Callable[[], object]:
    def call() -> object:
        raise error
    return call


@pytest.mark.parametrize("call", [
    lambda: print(EVIL), lambda: print(EVIL, file=sys.stderr), lambda: cli.say(EVIL), lambda: sys.stdout.write(EVIL),
    lambda: sys.stdout.writelines([EVIL]),
    lambda: cli.Parser().parse_args([EVIL]), lambda: cli.Parser(description=EVIL).print_help(),
    raising(UserError(EVIL)), raising(RuntimeError(EVIL)), raising(OSError(2, EVIL, EVIL)),
    lambda: status.print_table([RunState(run=EVIL, path="", state="failed", reason=f"{EVIL} [red] [/] [/red]")])],
    ids=["print", "stderr", "say", "write", "writelines", "arguments", "help", "mistake", "fault", "storage",
         "table"])
def test_control_characters_in_data_never_reach_a_terminal(call: Callable[[], object], monkeypatch: pytest.MonkeyPatch,
                                                     tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _, text = printed(call, monkeypatch)
    assert r"\x1b]52" in text.replace("\n", "") and output.printable(text) == text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_table_is_legible_where_the_locale_lacks_its_characters(encoding: str, monkeypatch: pytest.MonkeyPatch,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    def call() -> None:
        status.print_table([RunState(run="größe–x", path="", state="done", reason="“ok” – 日")])
        print("AP –  × …")

    code, text = printed(call, monkeypatch, encoding)
    line = next(line for line in text.splitlines() if "done" in line)
    name = "größe-x" if encoding == "latin-1" else r"gr\xf6\xdfe-x"
    assert code == 0 and line.split()[0].strip("|") == name and r'"ok" - \u65e5' in line
    assert text.splitlines()[-1].startswith("AP -  ") and "─" not in text and "\\u25" not in text


class Failing(io.StringIO):
    """A stream that takes nothing."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize(("error", "acts", "code", "said"), [
    (BrokenPipeError(32, "Broken pipe"), False, 0, ""), (BrokenPipeError(32, "Broken pipe"), True, 0, ""),
    (OSError(28, "No space left on device"), False, 1, "error: standard output: No space left on device"),
    (OSError(28, "No space left on device"), True, 0, "warning: standard output: No space left on device")])
def test_a_verb_does_its_work_even_if_nobody_reads_its_output(error: OSError, acts: bool, code: int, said: str,
                                                    monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    done = []

    def main(argv: object) -> int:
        if acts:
            cli.acts()
        print("begins", flush=True)
        done.append(1)
        print("ends")
        return 0

    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", Failing(error))
        assert cli.run(main) == code
    assert done == [1] and capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(("error", "words"), [
    (OSError(28, "No space left on device", "/a/b"), "/a/b: No space left on device; free some space there"),
    (OSError(24, "Too many open files"), "Too many open files; the limit on open files is too low (ulimit -n)"),
    (MemoryError(), "out of memory; not enough memory"),
    (RecursionError("maximum recursion depth exceeded"), "nested too deeply: maximum recursion depth"),
    (RuntimeError("can't start new thread"), "can't start new thread; the limit on processes"),
    (ModuleNotFoundError("No module named 'yaml'"), "No module named 'yaml'; a required package is missing"),
    (TypeError("x\ny"), "unexpected TypeError: x y"), (KeyError("x" * 9999), "unexpected KeyError: 'xxx")])
def test_an_uncaught_exception_is_one_line_and_its_traceback_is_in_a_file(
        error: Exception, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    secret = "hunter2"
    code, text = printed(raising(error), monkeypatch)
    kept = next(tmp_path.iterdir())
    assert code == 1 and text.startswith(f"error: {words}") and text.endswith(f"(traceback: {kept})\n")
    assert text.count("\n") == 1 and len(text) < 2500 and kept.stat().st_mode & 0o777 == 0o600
    assert "Traceback (most recent call last)" in kept.read_text() and secret not in kept.read_text()


def test_the_traceback_is_printed_on_request_and_need_not_be_saved(monkeypatch: pytest.MonkeyPatch,
                                                                           tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    _, text = printed(raising(TypeError("x")), monkeypatch)
    assert text == ("error: unexpected TypeError: x (the traceback could not be saved; ECM_CLUSTER_TRACEBACK=1 prints "
                    "it)\n")
    monkeypatch.setenv(program.TRACEBACK, "1")
    _, text = printed(raising(TypeError("x")), monkeypatch)
    assert text.startswith("Traceback") and text.endswith("error: unexpected TypeError: x (traceback above)\n")


@pytest.mark.parametrize("option", ["gone/a.csv", "", "a-file/b.csv", "x" * 300])
def test_a_table_that_could_not_be_written_is_refused_first(option: str, tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    with pytest.raises(UserError, match="^csv: .*; (expected a|use another) file"):
        cli.check_writable("csv", str(tmp_path / option))


def test_a_table_written_to_a_device_leaves_the_device_there(tmp_path: Path) -> None:
    cli.check_writable("csv", "/dev/null")
    cli.write_file("csv", "/dev/null", "a,b\n")
    assert not os.path.isfile("/dev/null")
    with pytest.raises(UserError, match="^csv: /dev/full: No space left on device; use another file"):
        cli.write_file("csv", "/dev/full", "a,b\n")


def test_argparse_speaks_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def call() -> object:
        made: argparse.ArgumentParser = cli.Parser(prog="x")
        made.add_argument("--n", type=int)
        return made.parse_args(["--n", "a\nb" * 9999])

    code, text = printed(call, monkeypatch)
    assert code == 2 and text.count("\n") == 1 and len(text) < 2500
