"""What users type into job, site and sweep files and flags: every wrong value is one line that names file and field."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ecm_cluster import submit
from ecm_cluster.base import units
from ecm_cluster.base.errors import UserError
from ecm_cluster.base.yaml_file import read_yaml
from ecm_cluster.console import cli
from ecm_cluster.job import eval_settings, job
from ecm_cluster.plan import create


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


def refused(path: Path, data: bytes | str) -> str:
    """The one line that says what is wrong with a job file."""
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError) as caught:
        job.load(str(path), {})
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and len(said) < 1500, said
    assert all(c.isprintable() for c in said), said
    return said


BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefg", "bcdefgh"))


NO_YAML = [
    (b"nodes: 1\nname: \xe4", "line 2: byte 0xe4 is not UTF-8"), (b"\xff\xfen", "line 1: byte 0xff is not UTF-8"),
    ("nodes: !!int abc", "line 1: not valid YAML ('abc' is not a value of int)"), ("nodes: !!int ''", "not a value"),
    ("nodes: !!int _", "'_' is not a value of int"), ("exclusive: !!bool x", "'x' is not a value of bool"),
    ("nodes: !!int ٣", "'٣' is not a number within limits"), ("seed: " + "9" * 5000, "is not a number within limits"),
    ("hang_minutes: 1e400", "'1e400' is not a number within limits"),
    ("name: !!python/object/apply:os.system [id]", "python/object/apply"), ("name: !foo x", "'!foo'"),
    ("options: !!set {a}", "tag:yaml.org,2002:set"), ("name: !!binary aGk=", "binary"),
    ("nodes: 1\noptions: " + "[" * 1000, "line 2: not valid YAML (nested too deeply)"),
    ("options: " + "{a: " * 3000, "nested too deeply"), ("a: " + "[" * 10000, "nested too deeply"),
    (BOMB, "too many values"), ("options: &a [*a]", "an alias inside the value that it refers to"),
    ("options: &a {<<: *a}", "an alias inside the value that it refers to"), ("name: *x", "found undefined alias"),
    ("name: \"a\\0b\"", "contains a character that is not allowed in text"),
    ("name: \"\\ud800\"", "a character that is not allowed in text"),
    ("name: \"\\UFFFFFFFF\"", "not valid YAML"), ("a: b\0c", "line 1: not valid YAML (the character 0x00)"),
    ("a: 1\n---\nb: 2", "another document"), ("? [a]\n: b", "unhashable key"),
    ("nodes:\t- 1", "cannot start any token"),
]


def test_a_file_that_is_not_plain_yaml_is_reported_with_its_line(tmp_path):
    for data, said in NO_YAML:
        assert said in refused(tmp_path / "a.yaml", data)


def test_dates_and_odd_numbers_are_text(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeffname: 2020-99-99\nb: 2020-01-01\nc: ²\nd: =\ne: -.inf".encode())
    assert read_yaml(path) == {"name": "2020-99-99", "b": "2020-01-01", "c": "²", "d": "=", "e": float("-inf")}


def test_anything_except_a_small_text_file_is_refused_at_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b" " * (2 << 20))
    for name, said in (("fifo", "not a regular file"), ("/dev/zero", "not a regular file"), ("large", "larger than 1"),
                       ("x" * 300, "cannot be read"), ("none", "cannot be read"),
                       (str(tmp_path), "not a regular file")):
        with pytest.raises(UserError, match=said):
            read_yaml(Path(name))
        monkeypatch.setenv(job.SITE_ENV, name)
        with pytest.raises(UserError, match=f"{job.SITE_ENV}: .*{said}"):
            job.load(None, {})
    monkeypatch.setenv(job.SITE_ENV, os.devnull)
    assert job.load(None, {}) == job.Job()


LONG = "9" * 400


WRONG = [
    *((f"{key}: {value}", f"{key}: ") for key in ("nodes", "keep", "hang_minutes", "seed", "cpus_per_gpu")
      for value in ("-1", ".nan", ".inf", "'1'", "²", "[1]", "{}", "9999999999", "true", "")),
    *((f"time: {value}", "time: ") for value in ("-1", f"'{LONG}'", "99999999", "٣", "1.5", "[1]", "0", "")),
    *((f"mem_per_gpu: {value}", "mem_per_gpu: ") for value in ("-1G", f"'{LONG}G'", "٣G", "1e400G", "0G",
                                                                    "48", "9999T")),
    *((f'{key}: "{value}"', f"{key}: ") for key in ("partition", "exclude", "name", "scratch", "config")
      for value in ("", " ", "a\\nb", "a\\x1b[2Jb", "a\\u2028b", "x" * 4000)),
    *((f"{key}: {value}", f"{key}: ") for key in ("data_root", "runs_dir", "code")
      for value in ("~nosuch/x", "x" * 300)),
    ("setup: x", "setup: "), ("setup: [1]", "setup: "), ("setup: {a: b}", "setup: "), ("share: everybody", "share: "),
    ("env: {A: null}", "env: A: expected text or a number, not null"), ("env: {A: [x]}", "env: A: "),
    ("env: {A=B: x}", "env: 'A=B' is"), ("env: {1A: x}", "env: '1A' "), ("env: {'': x}", "env: '' "),
    ("env: {A B: x}", "env: 'A B' "), ("env: {on: x}", "env: True "), ("env: {UID: 1}", "env: UID is set by"),
    ("env: {SLURM_JOB_ID: 1}", "env: SLURM_JOB_ID is set by"), ("env: {ecm_run: x}", "env: ecm_run is set by"),
    ("evaluation: {epochs: [٣]}", "evaluation.epochs: "), ("evaluation: {nodes: -1}", "evaluation.nodes: "),
    ("evaluation: {time: [1]}", "evaluation.time: "), ("evaluation: {1: 2}", "evaluation: key: 1 is unknown"),
    ("1: 2", "key: 1 is unknown"), ("nods: 2", "did you mean nodes?"),
]


@pytest.mark.slow
def test_a_wrong_value_is_reported_with_file_and_field(tmp_path):
    for text, said in WRONG:
        assert said in refused(tmp_path / "a.yaml", text)


OPTIONS = ("wrap", "WRAP", "-wrap", "--wrap", "__wrap", "wrap=id", " wrap", "wra", "W", "-W", "_W", "", "x" * 100,
           "nice\n#SBATCH --wrap", "quiet", "uid", "gid", "no_kill", "input", "ntasks-per-gpu", "overcommit", "array",
           "chdir", "cluster-constraint", "het group")


def test_an_option_that_would_change_what_a_run_relies_on_is_refused(tmp_path):
    for key in OPTIONS:
        with pytest.raises(UserError, match="^slurm: option "):
            job.make({"slurm": {key: "id"}})
    assert "slurm: option 'wrap' " in refused(tmp_path / "a.yaml", "slurm: {wrap: id}")


def test_a_block_of_options_holds_single_lines_each_once(tmp_path):
    path = tmp_path / "a.yaml"
    for block in ("slurm", "srun"):
        for value in ('"a\\nb"', '"\\x1b]52;c;x"', "[a]", "{a: b}", "x" * 3000):
            assert f"{block}: option 'network': invalid value" in refused(path, f"{block}: {{network: {value}}}")
        assert "are the same" in refused(path, f"{block}: {{mem-bind: a, mem_bind: b}}")
    path.write_text("slurm: {comment: 'a b', nice: 5, hold: true, mail-type: null}")
    assert job.load(str(path), {}).slurm == {"comment": "a b", "nice": 5, "hold": True, "mail-type": None}


# ---------------------------------------------------------------------------------------------- flags


WRONG_FLAGS = [
    *(["--nodes", value] for value in ("²", "٣", LONG, "1_000", " 5", "0x10", "", "1.5", "-1")),
    *(["--checkpoint-minutes", value] for value in ("٣", "inf", "nan", "1e400", "1e9", "", "-1")),
    *(["--eval-epochs", value] for value in ("²", "٣", "1,,2", LONG)), ["--eval-every", "٣"],
    *([flag, "\udce4"] for flag in ("--name", "--config", "--data-root", "--set", "--partition", "--time")),
    ["--name", "x" * 300], ["--name", "ä" * 101], ["--name", "a%j"], ["--runs-dir", "x" * 300],
    ["--runs-dir", "x/" * 2000], ["--name", ""], ["--mem-per-gpu", f"{LONG}G"], ["--share", "us"],
]


@pytest.mark.slow
def test_a_wrong_flag_is_one_line_and_nothing_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(submit, "submit", lambda *_: pytest.fail("was accepted"))
    for flag, value in WRONG_FLAGS:
        assert cli.run(submit.main, ["demo", "--cluster", "local", f"{flag}={value}"]) == 2, (flag, value)
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and said[0].startswith("error: "), said
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_named_after_a_long_config_has_a_name_that_fits(tmp_path):
    name = create.next_name(tmp_path, f"{'ä' * 120}.py")
    assert name.endswith("-001")
    units.check_run_path("name", name)


# ---------------------------------------------------------------------------------------------- sweep files


@pytest.mark.parametrize(("text", "said"), [
    ("score_thr: " + "9" * 390, "not a number"), ("max_per_img: 99999999999", "max_per_img: "),
    ("scale: ٣x٣", "scale: "),
    ("scale: " + "9" * 50 + "x1", "scale: "), ("temperature: .inf", "temperature: "), ("margin: .nan", "margin: "),
    ("1: 2", "setting: 1 is unknown"), ("nms_iou: []", "nms_iou: the list is empty"), ("nms_iou: [[1]]", "nms_iou: "),
    ("\n".join(f"{name}: [{', '.join(str(n / 100 + 0.01) for n in range(99))}]"
               for name in ("nms_iou", "score_thr", "min_score")), "970299 combinations; expected 10000 at most")])
def test_a_wrong_sweep_file_is_reported_in_one_line(tmp_path, text, said):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        eval_settings.grid(eval_settings.read_sweep(path), f"{path}: ")
    assert said in str(caught.value) and len(str(caught.value)) < 500
