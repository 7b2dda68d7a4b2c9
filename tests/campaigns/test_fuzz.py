"""Whether the fuzzer's judge can judge, and a short campaign; a long one is `python -m tests.fuzz --cases 2000`."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import areas, campaign, judging, running
from fuzz.case import Case, Library
from small import ROOT

GOOD = running.Answer(2, b"", b"error: mine.yaml: nodes: invalid value 'x'; expected a number\n", 0.1, 1 << 20, ())


def judged(tmp_path: Path, *, before: dict[str, str] | None = None, after: dict[str, str] | None = None,
           invalid: bool = False, **answer: object) -> list[str]:
    case = Case(1, random.Random(1), tmp_path, Library(tmp_path))
    case.changed("a value", invalid, names=["nodes"])
    return judging.judge(case, running.Answer(**{**vars(GOOD), **answer}), before or {}, after or {})


def test_an_answer_that_names_the_field_is_good(tmp_path: Path) -> None:
    assert judged(tmp_path, invalid=True) == []


@pytest.mark.parametrize("answer, said", [
    ({"code": 1, "err": b"Traceback (most recent call last):\n  x\nKeyError: 'nodes'\n"}, "traceback: KeyError"),
    ({"code": 1, "err": b"error: unexpected KeyError: 'nodes' (traceback: /tmp/x.txt)\n"}, "nobody foresaw it"),
    ({"code": 0, "err": b"", "invalid": True}, "accepted in silence"),
    ({"after": {"runs/x": "1"}}, "written although refused: runs/x"),
    ({"before": {"mine.yaml": "1"}, "after": {"mine.yaml": "2"}}, "written although refused"),
    ({"err": b"error: something is wrong\n"}, "names neither file nor field"),
    ({"err": b"nodes\n" * 7}, "an error of 7 lines"), ({"err": b"nodes" * 700}, "3500 characters"),
    ({"err": b""}, "no reason is given"), ({"code": 120}, "exit code 120"), ({"code": -9}, "exit code -9"),
    ({"err": b"nodes: \x1b[2J\n"}, "raw '\\x1b'"), ({"err": "nodes: \x9b2J\n".encode()}, "raw '\\x9b'"),
    ({"err": b"nodes: \xe4\n"}, "not UTF-8"), ({"left": ("sleep 9",)}, "left behind: sleep 9"),
    ({"seconds": 99.0}, "took 99 s"), ({"memory": 3 << 30}, "took 3072 MiB")])
def test_the_judge_finds_what_is_bad(tmp_path: Path, answer: dict[str, object], said: str) -> None:
    assert any(said in bad for bad in judged(tmp_path, **answer))


def test_what_a_dry_run_would_refuse_is_not_accepted_in_silence(tmp_path: Path) -> None:
    assert judged(tmp_path, invalid=True, code=0, err=b"would be refused: nodes: no\n") == []
    assert judged(tmp_path, invalid=True, code=0, err=b"would be refused: no\n")


def seeded(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Cases that run a verb whose program is ``text``."""
    def area(case: Case) -> None:
        (case.work / "ecm_cluster").mkdir()
        case.write("ecm_cluster/__init__.py", "")
        case.write("ecm_cluster/seeded.py", text)
        case.argv = ["seeded"]
        case.changed("a file", invalid=True, names=["mine.yaml"])

    monkeypatch.setattr(areas, "AREAS", {"seeded": (area, 1)})


@pytest.mark.slow
@pytest.mark.parametrize("text, said", [
    ("{}['mine.yaml']", "traceback: KeyError"), ("", "accepted in silence"),
    ("open('new', 'w'); raise SystemExit(2)", "written although refused: new"),
    ("import subprocess; subprocess.Popen(['/bin/sleep', '99'], start_new_session=True)", "left behind: /bin/sleep 99"),
    ("import os; os.kill(os.getpid(), 9)", "exit code -9")])
def test_a_fault_of_a_real_program_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str,
                                            said: str) -> None:
    seeded(monkeypatch, text)
    tally = campaign.run(1, [campaign.REAL_EVERY], tmp_path / "cases", Library(tmp_path), jobs=1)
    (result,) = tally.bad
    assert any(said in bad for bad in result.bad), result


@pytest.mark.slow
def test_150_cases_are_answered_well_and_each_is_available_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seed", "11", "--folder", str(tmp_path / "fuzz"),
               "--library", str(tmp_path / "library")]
    env = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run([*command, "--cases", "150", "--json", str(tmp_path / "bad.json")], cwd=ROOT, env=env,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "bad.json").read_text()) == []
    alone = [subprocess.run([*command, "--only", "7"], cwd=ROOT, env=env, capture_output=True, text=True)
             .stdout.partition("\nexit code") for _ in range(2)]
    assert alone[0][:2] == alone[1][:2] and "good" in alone[0][2]  # the rest says how long it took


def test_a_case_follows_from_its_seed_and_number_alone(tmp_path: Path) -> None:
    def made(number: int) -> tuple[list[str], list[str], bool]:
        case = Case(number, random.Random(f"5-{number}"), tmp_path, Library(tmp_path))
        areas.option(case)
        return case.argv, case.kinds, case.invalid

    first = [made(number) for number in range(40)]
    assert first == [made(number) for number in range(40)]
    assert len({str(argv) for argv, _, _ in first}) > 35
