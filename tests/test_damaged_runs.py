"""Run directories as damaged data: whatever a file in one holds, each verb answers in a few lines."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from former_version import cancelled, complete

from ecm_cluster import cancel, clean, cli, compare, evaluate, resume, status
from ecm_cluster.run import Run

LONGEST = 6  # lines of an answer that is an error
DEEP = "[" * 100_000
VERBS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "status": (status, ("--runs-dir", "{runs}")), "status RUN": (status, ("{run}",)),
    "status --json": (status, ("{run}", "--json")), "evaluate": (evaluate, ("{run}", "--dry-run")),
    "compare": (compare, ("{run}", "{run}")), "clean": (clean, ("{run}", "--dry-run")),
    "resume": (resume, ("{run}", "--dry-run")), "cancel": (cancel, ("{run}",))}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: max(1, path.stat().st_size // 2)])


def written(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text) and None


def other_bytes(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00" * 9)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def zero(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    os.truncate(path, 10 << 30)


def gone(path: Path) -> None:
    path.unlink()


WHOLE: dict[str, Callable[[Path], None]] = {
    "cut": cut, "empty": written(""), "list": written("[]"), "null": written("null"), "text": written('"x"'),
    "deep": written(DEEP), "digits": written("9" * 5000), "bytes": other_bytes, "folder": folder, "fifo": fifo,
    "loop": loop, "zero": zero, "huge": huge, "gone": gone}
VALUES: tuple[Any, ...] = (None, 5, -1, 10**30, "x", "../../x", "\x1b[2J\ud800", [], {}, [[1]], {"a": 1}, float("nan"))


def fields_of(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of everything in nested containers; of a list only the first."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from fields_of(inner, (*at, key))


def changed(value: Any, at: tuple[Any, ...], new: Any) -> str:
    value = json.loads(json.dumps(value))
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    if new is gone:
        del inner[at[-1]]
    else:
        inner[at[-1]] = new
    return json.dumps(value)


def other_values(path: Path, thorough: bool) -> Iterator[tuple[str, str]]:
    """The texts of a JSON file, or of one of lines, with one field of another value, or without it."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" or path.name.endswith(".log.json") else None
    rows = [json.loads(line) for line in lines] if lines is not None else [json.loads(path.read_text())]
    for number, row in enumerate(rows):
        for at in fields_of(row):
            if len(at) > 3 and not thorough:
                continue
            for new in (gone, *VALUES):
                text = changed(row, at, new)
                if lines is not None:
                    text = "\n".join([*lines[:number], text, *lines[number + 1:], ""])
                yield f"{path.name} {at} {'gone' if new is gone else repr(new)}", text


def answer(verb: str, run: Run) -> str:
    """What is wrong with the answer of a verb; empty where nothing is."""
    module, words = VERBS[verb]
    out, err = io.StringIO(), io.StringIO()
    argv = [word.format(run=run.path, runs=run.path.parent) for word in words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.run(module.main, argv)
        except SystemExit as ended:
            code = ended.code
    said = err.getvalue()
    if "Traceback" in said or "traceback" in said or code not in (0, 1, 2):
        return f"{verb}: code {code}: {said}"
    if code and said.count("\n") > LONGEST:
        return f"{verb}: {said.count(chr(10))} lines: {said}"
    return ""


def judged(run: Run, verbs: Any = tuple(VERBS)) -> list[str]:
    return [wrong for verb in verbs if (wrong := answer(verb, run))]


def folded(run: Run) -> Path:
    run.fold_ledger(1)
    run.fold_ledger(1)
    return run.path


def copied(whole: Path, tmp_path: Path) -> Run:
    shutil.copytree(whole, tmp_path / "runs" / "run")
    return Run(tmp_path / "runs" / "run")


def files_of(run: Run) -> list[Path]:
    return sorted(p for p in run.path.rglob("*") if stat.S_ISREG(p.lstat().st_mode) and "code" not in p.parts)


def folder_damage(run: Run) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each folder of a run as something else; what was there has to be brought back by copying it anew."""
    for path in sorted(p for p in run.path.rglob("*") if p.is_dir()):
        for how, make in (("file", written("{}")), ("fifo", fifo), ("loop", loop), ("zero", zero), ("gone", gone)):
            def damage(path: Path = path, make: Callable[[Path], Any] = make) -> None:
                shutil.rmtree(path)
                path.write_text("")
                make(path)

            yield f"{path.relative_to(run.path)}/ {how}", damage


def sweep(whole: Path, tmp_path: Path, step: int, start: int = 0, verbs: Any = tuple(VERBS),
          thorough: bool = False) -> list[str]:
    """Every ``step``-th damage of every file, and what is wrong with the answers."""
    run, wrong, number = copied(whole, tmp_path), [], start
    for path in files_of(run):
        name, kept = str(path.relative_to(run.path)), path.read_bytes()
        cases: list[tuple[str, Callable[[Path], Any]]] = [(f"{name} {how}", make) for how, make in WHOLE.items()]
        if path.suffix in (".json", ".jsonl") and kept:
            cases += [(f"{name}: {what}", written(text)) for what, text in other_values(path, thorough)]
        for what, damage in cases:
            number += 1
            if number % step:
                continue
            with contextlib.suppress(UnicodeEncodeError):
                damage(path)
            wrong += [f"{what}: {one}" for one in judged(Run(run.path), verbs)]
            with contextlib.suppress(OSError):
                path.unlink()
            if path.is_dir():
                shutil.rmtree(path)
            path.write_bytes(kept)
    return wrong


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.mark.slow
@pytest.mark.parametrize("state", ["complete", "complete and folded", "cancelled", "cancelled on Slurm"])
def test_whatever_a_file_holds_each_verb_answers_in_a_few_lines(tmp_path, state):
    """A share of all damages; `sweep` of step 1 is all of them."""
    made = {"complete": lambda: complete(tmp_path).path, "complete and folded": lambda: folded(complete(tmp_path)),
            "cancelled": lambda: cancelled(tmp_path).path,
            "cancelled on Slurm": lambda: cancelled(tmp_path, "slurm").path}
    (tmp_path / "copy").mkdir()
    assert not sweep(made[state](), tmp_path / "copy", 311, 7 * len(state))


@pytest.mark.slow
def test_whatever_stands_in_a_folders_place_each_verb_answers_in_a_few_lines(tmp_path):
    whole, wrong = complete(tmp_path).path, []
    for what, damage in list(folder_damage(Run(whole)))[::3]:
        kept = whole.with_name("kept")
        shutil.copytree(whole, kept)
        damage()
        wrong += [f"{what}: {one}" for one in judged(Run(whole))]
        shutil.rmtree(whole)
        kept.rename(whole)
    assert not wrong
