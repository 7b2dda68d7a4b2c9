"""Run directories as damaged data: regardless of what a file in one holds, each verb answers in a few lines."""

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
from users import VICTIM, acting_as, given_to, needs_root, shared_folder

from ecm_cluster import cancel, clean, compare, evaluate, resume, status
from ecm_cluster.base.errors import UserError
from ecm_cluster.chain import evaluations, submissions
from ecm_cluster.console import cli
from ecm_cluster.rundir import checkpoints, ledger, ledger_files, retention
from ecm_cluster.rundir.run import Run

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
    """Each folder of a run as something else; what was there has to be restored by copying it again."""
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
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm of this machine


@pytest.mark.slow
@pytest.mark.parametrize("state", ["complete", "complete and folded", "cancelled", "cancelled on Slurm"])
def test_no_matter_what_a_file_holds_each_verb_answers_in_a_few_lines(tmp_path, state):
    """A share of all damages; `sweep` of step 1 is all of them."""
    made = {"complete": lambda: complete(tmp_path).path, "complete and folded": lambda: folded(complete(tmp_path)),
            "cancelled": lambda: cancelled(tmp_path).path,
            "cancelled on Slurm": lambda: cancelled(tmp_path, "slurm").path}
    (tmp_path / "copy").mkdir()
    assert not sweep(made[state](), tmp_path / "copy", 311, 7 * len(state))


@pytest.mark.slow
def test_no_matter_what_stands_in_a_folders_place_each_verb_answers_in_a_few_lines(tmp_path):
    whole, wrong = complete(tmp_path).path, []
    for what, damage in list(folder_damage(Run(whole)))[::3]:
        kept = whole.with_name("kept")
        shutil.copytree(whole, kept)
        damage()
        wrong += [f"{what}: {one}" for one in judged(Run(whole))]
        shutil.rmtree(whole)
        kept.rename(whole)
    assert not wrong


# ---------------------------------------------------------------------------------------------- what is said


def reported(capsys, *argv: object, verb: Any = status) -> tuple[int, str, str]:
    code = cli.run(verb.main, [str(a) for a in argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_status_names_what_is_damaged_and_shows_the_rest(tmp_path, capsys):
    run = complete(tmp_path)
    run.complete_file(1).write_text("{")
    (run.ledger_dir / "0000-submit.jsonl").unlink()
    run.ledger(0, "submit").write("submitted", stage="train", job_id="7045", token="ecm-cluster:former:train:0a")
    cut(run.submission_file("train"))
    other_bytes(run.manifest_of(run.checkpoints_dir / "iter_0000014-a0001.pth"))
    code, out, _ = reported(capsys, run.path)
    assert code == 0 and out.startswith("former: ")
    assert "damaged: attempts/0001.complete.json: " in out and "damaged: submissions/train.json: " in out
    assert "iter_0000014-a0001.json: line 1: byte 0xff is not UTF-8" in out
    assert "process: train 7045" in out, "the ledger says which job it was"


def test_a_damaged_completion_mark_is_read_from_the_ledger_and_without_it_is_one_line(tmp_path, capsys):
    run = complete(tmp_path)
    run.complete_file(1).write_text("[]")
    assert run.completion() == "iter_0000021-a0001.pth"
    shutil.rmtree(run.ledger_dir)
    code, _, err = reported(capsys, run.path, verb=resume)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{run.complete_file(1)}: not a readable completion mark (" in err and "restore the file" in err


@pytest.mark.slow
def test_a_damaged_submission_record_is_put_together_from_the_ledger(tmp_path):
    run = cancelled(tmp_path, "slurm")
    before = run.submission("train")
    run.ledger(0, "submit").write("submitted", stage="train", job_id="8001", token="ecm-cluster:former:train:0a")
    run.submission_file("train").write_text("{")
    with pytest.raises(UserError, match=r"train\.json: not a readable record of a submission"):
        run.submission("train")  # the previous version wrote no tokens to the ledger
    shutil.rmtree(run.ledger_dir)
    run.ledger(0, "submit").write("submitted", stage="train", job_id="7", token="ecm-cluster:former:train:0b")
    run.ledger(0, "submit").write("submitted", stage="train", job_id="8", token="ecm-cluster:former:train:0c")
    record = run.submission("train")
    assert (record["job_id"], record["token"], record["cluster"]) == ("8", "ecm-cluster:former:train:0c", "slurm")
    assert [row["job_id"] for row in record["former"]] == ["7"] and before["job_id"] != "8"


@pytest.mark.slow
def test_damaged_figures_are_scored_again(tmp_path, capsys):
    run = complete(tmp_path)
    whole = [e for e in evaluations.read(run, "evaluate") if evaluations.done(run, e)]
    work = evaluations.of_element(run, whole[0])
    work.metrics_file().write_text('{"figures": 3}')
    assert not evaluations.done(run, whole[0]) and evaluations.has_detections(work) == work.chunk_file(0).exists()


def test_only_an_id_a_token_and_a_name_is_taken_from_a_submission(tmp_path):
    run = cancelled(tmp_path, "slurm")
    record = {**run.submission("train"), "user": "anna"}
    shutil.rmtree(run.ledger_dir)
    for field, value in (("job_id", "--me"), ("job_id", "-1"), ("job_id", "7 8"), ("job_id", "²"), ("job_id", 7),
                         ("token", ""), ("token", "(null)"), ("token", "a\nb"), ("token", "../../x"), ("user", "-rf"),
                         ("user", "a,b")):
        for damaged in ({**record, field: value}, {**record, "former": [{**record["former"][0], field: value}]}):
            run.submission_file("train").write_text(json.dumps(damaged))
            with pytest.raises(UserError, match="not a readable record of a submission"):
                submissions.of_run(run)


def test_a_manifest_names_the_checkpoint_beside_it_and_nothing_else(tmp_path):
    run = complete(tmp_path)
    path = run.manifest_of(run.checkpoints_dir / "iter_0000007-a0001.pth")
    whole = path.read_text()
    for name in ("../../x.pth", "/etc/passwd", "iter_0000007-a0001.pth/../x", "iter_0000014-a0001.pth"):
        path.write_text(whole.replace('"iter_0000007-a0001.pth"', json.dumps(name)))
        assert [m.iteration for m in checkpoints.manifests(run)] == [14, 21]
    assert len(run.damage) == 4


def test_lines_of_the_ledger_that_lack_a_field_are_skipped_counted_and_shown_once(tmp_path, capsys):
    run = complete(tmp_path)
    with open(run.ledger_dir / "0001-task000.jsonl", "a") as handle:
        handle.write('{"kind": "end", "time": 5}\n{"kind": "start", "time": 5, "rank": "x"}\n{"kind": "x"}\n')
    code, out, _ = reported(capsys, run.path)
    assert code == 0 and out.count("damaged: ledger/0001-task000.jsonl: end.cause: missing; expected text "
                                   "(3 lines skipped)") == 1


def test_a_wrong_head_in_the_folded_ledger_loses_no_other_line(tmp_path):
    folder = tmp_path / "ledger"
    for attempt in (1, 2):
        writer = ledger.Ledger(folder, attempt, "task000")
        writer.write("a")
        writer.write("b")
    ledger.fold(folder, 2)
    ledger.fold(folder, 2)
    (path,) = folder.iterdir()
    rows = path.read_text().splitlines()
    for head, kept in (({"lines": 1}, 1), ({"lines": -3}, 0), ({"lines": 10**12}, 2), ({"lines": "2"}, 2), ({}, 2)):
        rows[0] = json.dumps({"file": "0001-task000.jsonl", **head})
        path.write_text("\n".join([*rows, ""]))
        assert [e.attempt for e in ledger.read(folder)] == [1] * kept + [2, 2]
    rows[3] = json.dumps({"file": "../../x", "lines": 2})
    path.write_text("\n".join([*rows, ""]))
    assert {e.attempt for e in ledger.read(folder)} <= {1}, "nothing is taken for another writer's"


def test_a_damaged_folded_ledger_is_replaced_by_the_one_before(tmp_path):
    folder = tmp_path / "ledger"
    ledger.Ledger(folder, 1, "task000").write("a")
    for attempt in (1, 2):
        ledger.fold(folder, attempt)
    newest = folder / "folded-0002.jsonl"
    newest.unlink()
    newest.mkdir()
    assert [e.kind for e in ledger.read(folder)] == ["a"]


def test_more_than_a_ledger_can_be_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_files, "OWN_BYTES", 10_000)
    run = complete(tmp_path)
    for number in range(3):
        run.ledger(1, f"task{number}").write("x", text="y" * 3000)
    with pytest.raises(UserError, match="ledger: larger than any run could write"):
        run.events()
    assert status.states.fold([run])[0].state == "unreadable"


# ---------------------------------------------------------------------------------------------- nothing can be written


@pytest.mark.slow
@needs_root
def test_a_run_that_cannot_be_written_is_shown_compared_and_listed(tmp_path, capsys):
    home = shared_folder()
    run = complete(home)
    given_to(VICTIM, home)
    for path in (run.path, *run.path.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {p: p.lstat().st_mtime_ns for p in run.path.rglob("*")}
    assert not judged(run)  # all is imported, with root's rights
    with acting_as(VICTIM):
        assert reported(capsys, run.path)[0] == 0
        code, out, err = reported(capsys, run.path, verb=evaluate)
        assert (code, err) == (0, "") and "1 of 1 scored already" in out and "box AP" in out
        assert reported(capsys, run.path, run.path, verb=compare)[0] == 0
        assert reported(capsys, run.path, "--dry-run", verb=clean)[::2] == (0, "")
        assert reported(capsys, run.path, "--dry-run", verb=resume)[::2] == (0, "")
        code, out, err = reported(capsys, run.path, verb=cancel)
        assert (code, err) == (0, "") and "nothing to cancel" in out
        code, _, err = reported(capsys, run.path, "--yes", verb=clean)
        assert code == 2 and err.count("\n") == 1
    assert {p: p.lstat().st_mtime_ns for p in run.path.rglob("*")} == before


@pytest.mark.slow
def test_nothing_is_deleted_through_a_link(tmp_path, capsys):
    run = complete(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    for name in ("iter_0000001-a0001.pth", "iter_0000001-a0001.json"):
        (tmp_path / "elsewhere" / name).write_text("x")
    run.quarantine_dir.symlink_to(tmp_path / "elsewhere")
    (run.checkpoints_dir / "iter_0000001-a0001.pth").symlink_to(tmp_path / "elsewhere/iter_0000001-a0001.pth")
    (run.checkpoints_dir / "iter_0000002-a0001.pth").mkdir()
    assert reported(capsys, run.path, "--all", "--yes", verb=clean)[0] == 0
    retention.remove_leftovers(run, 2)
    retention.prune(run, 1, 2)
    assert len(list((tmp_path / "elsewhere").iterdir())) == 2
