"""What a config is written as, and that a run's own config is read without being executed."""

from __future__ import annotations

import shutil
import sys

import pytest
from former_version import complete
from steering import ended_run
from users import ATTACKER, VICTIM, environment, home_of, needs_root, run_as, shared_folder

from ecm_cluster import compare, evaluate, resume, status
from ecm_cluster.base.errors import UserError
from ecm_cluster.console import cli
from ecm_cluster.mmconfig import config, literals


def refused(text: str) -> str:
    with pytest.raises(UserError) as caught:
        literals.parse(text, "/runs/first/config.py")
    said = str(caught.value)
    assert said.startswith("/runs/first/config.py: line ") and "\n" not in said
    return said


@pytest.mark.parametrize("line", [
    "x = open('/tmp/x', 'w')", "x = __import__('os').getpid()", "import os", "x = [1][0]", "x = 1 + 1", "x = y",
    "x: int = 1",
    "x = f'{1}'", "x = [i for i in (1,)]", "x = lambda: 1", "x = dict(**{'a': 1})", "x = dict([('a', 1)])",
    "x = float('1')",
    "x = float('inf', 1)", "x = range(1, 2, 3, 4)", "x = range(0, 1, 0)", "x = set([1])", "x = {**{}}", "x = (*(),)",
    "x = 1j",
    "x = ...", "x = y = 1", "a.b = 1", "x, y = 1, 2", "x += 1", "print(1)", "1", "'text'", "def f(): pass",
    "class A: pass",
    "if 1: x = 1", "x = {[]: 1}", "_base_ = ['other.py']", "__name__ = 1", "filename = 'x'", "x = not 1", "x = -'a'",
    "x = (y := 1)",
    "x = 1 if 1 else 2", "x = 'a' 'b' % 1", "x = await y", "x = 1\0", "x = (",
    "x = " + "[" * 100_000, "x = " + "-" * 100_000 + "1",
    "x = 1" + "+1" * 100_000, "x = " + "9" * 5000 if sys.version_info >= (3, 11) else "x = 1 1"])
def test_a_frozen_config_holds_literals_and_nothing_else(line):
    assert "contains only literals and is not executed" in refused("model = {'type': 'A'}\n" + line)


def test_what_mmcv_writes_is_read_as_well():
    assert literals.parse("a = dict(b=[1, -2.5, (3, )], c=dict())\nd = float('-inf')\ne = range(0, 2)\nf = set()\n"
                             "g = {1, 2}\nh = {'x y': None, 3: True}\ni = b'x'", "c.py") == {
        "a": {"b": [1, -2.5, (3,)], "c": {}}, "d": float("-inf"), "e": range(2), "f": set(), "g": {1, 2},
        "h": {"x y": None, 3: True}, "i": b"x"}


def test_the_worker_s_config_is_what_mmcv_would_have_made_of_the_file(tmp_path):
    from mmcv import Config

    from ecm_cluster.node.mmdet_trainer import config as mmdet_config

    run = ended_run(tmp_path / "run")
    run.config_file.write_text(config.dump({**config.read("configs/demo.py"), "custom_imports": {"imports": ["json"]},
                                            "a": "{{ fileBasename }}", "b": (1, [{"c": float("inf")}])}))
    ours, theirs = mmdet_config.load(run), Config.fromfile(str(run.config_file))
    assert (ours.filename, ours.text) == (theirs.filename, theirs.text)
    assert repr(ours) == repr(theirs) and type(ours.b[1][0]) is type(theirs.b[1][0])
    assert ours.pretty_text == theirs.pretty_text
    marker = tmp_path / "executed"
    run.config_file.write_text(f"x = open({str(marker)!r}, 'w')\n")
    with pytest.raises(UserError, match="is not executed"):
        mmdet_config.load(run)
    assert not marker.exists()


def test_no_verb_executes_the_config_of_a_run(capsys, tmp_path):
    run = complete(tmp_path)
    marker = tmp_path / "executed"
    run.config_file.write_text(f"{run.config_file.read_text()}\nx = open({str(marker)!r}, 'w')\n")
    for verb, argv in ((evaluate, []), (evaluate, ["--dry-run"]), (evaluate, ["--vary", "nms_iou=0.2", "--dry-run"])):
        code = cli.run(verb.main, [str(run.path), *argv])
        said = capsys.readouterr().err
        assert code == 2 and "config.py: line " in said and "is not executed" in said and "Traceback" not in said
    for verb, argv in ((resume, ["--dry-run"]), (status, []), (compare, [f"{run.path}@7"])):
        cli.run(verb.main, [str(run.path), *argv])
        assert "Traceback" not in capsys.readouterr().err
    assert not marker.exists()


@needs_root
@pytest.mark.slow
def test_no_verb_executes_what_another_user_has_put_into_a_run(tmp_path):
    shared = shared_folder()
    home, marker = home_of(VICTIM, shared), shared / "executed"
    run = complete(shared / "theirs")
    ended = ended_run(shared / "theirs/runs/ended", iterations=(3,))
    for one in (run, ended):
        one.config_file.write_text(f"import os\nos.system('id > {marker}')\n{one.config_file.read_text()}")
    for path in (shared / "theirs", *(shared / "theirs").rglob("*")):
        shutil.chown(path, ATTACKER, ATTACKER)
        path.chmod(0o777 if path.is_dir() else 0o666)
    for verb, *more in (["evaluate"], ["evaluate", "--dry-run"], ["resume"], ["resume", "--dry-run"], ["status"],
                        ["compare", f"{run.path}@7"]):
        for one in (run, ended):
            done = run_as(VICTIM, sys.executable, "-m", f"ecm_cluster.{verb}", str(one.path), *more, cwd=home,
                          env=environment(home))
            assert done.returncode in (0, 1, 2) and "Traceback" not in done.stderr, (verb, more, done.stderr)
            assert not marker.exists(), (verb, more)


# ----------------------------------------------------------------------------------------- what cannot be written


@pytest.mark.parametrize(("text", "said"), [
    ("a = []\na.append(a)", "invalid a: nested too deeply, or contains itself"),
    ("a = {}\na['b'] = a", "invalid a: nested too deeply, or contains itself"),
    ("a = 1\nfor _ in range(3000):\n    a = [a]", "invalid a: nested too deeply"),
    ("a = 10 ** 6000", "invalid a: a number of 19932 bits; expected 64 or less"),
    ("a = [0]\nfor _ in range(40):\n    a = [a, a]", "more than 9,000 values"),
    ("model = dict(b=['x\\0y'])", "invalid model.b.0: "), ("a = '\\ud800'", "invalid a: "),
    ("a = dict(f=lambda: 1)", "invalid a.f: a function"), ("a = (i for i in ())", "invalid a: a generator"),
    ("class A:\n    def __repr__(self):\n        raise ValueError\na = [A()]", "a A (not printable)"),
    ("a = {10 ** 6000: 1}", "a number of 19932 bits"), ("a = 1j", "a complex"),
    ("class D(dict):\n    def items(self): raise RuntimeError\na = D(b=1)\nc = 1 << 10 ** 7",
     "a number of 10000001 bits"),
    ("class A:\n    shape = ()\n    def item(self): 1 / 0\na = dict(b=A())", "invalid a: a dict (ZeroDivisionError)")])
def test_what_cannot_be_written_is_refused_as_it_is_read_with_file_and_key(tmp_path, monkeypatch, text, said):
    monkeypatch.setattr(literals, "MOST", 9000)
    (tmp_path / "base.py").write_text(text)
    (tmp_path / "c.py").write_text("_base_ = 'base.py'\nz = {{ _base_.a }}\n")
    with pytest.raises(UserError) as caught:
        config.read(tmp_path / "c.py")
    assert f"{tmp_path / 'base.py'}: " in str(caught.value) and said in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(("text", "said"), [
    ("globals().clear()\nx = y", "NameError"), ("raise SystemExit(0)", "SystemExit"),
    ("raise GeneratorExit", "GeneratorExit"),
    ("def f(): f()\nf()", "RecursionError"),
    ("raise MemoryError", "MemoryError"),
    ("class E(BaseException):\n    def __str__(self): return 1\nraise E", "E: without a message"),
    ("raise ValueError('x' * 10 ** 6)", "ValueError: xxx"), ("x = " + "[" * 3000 + "]" * 3000, "nest"),
    ("x = " + "-" * 100_000 + "1", ""), ("x = 1\0", "null byte")])
def test_a_config_that_fails_is_one_line(tmp_path, text, said):
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(UserError) as caught:
        config.read(tmp_path / "c.py")
    assert str(caught.value).startswith(f"{tmp_path / 'c.py'}:") and said in str(caught.value)
    assert len(str(caught.value)) < 500


def test_what_a_config_prints_is_not_an_output_of_the_verb(capsys, tmp_path):
    (tmp_path / "c.py").write_text("print('hello')\nx = 1\n")
    assert config.read(tmp_path / "c.py") == {"x": 1}
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize(("name", "data"), [
    ("c.py", b"x = '\xe4'"), ("c.json", b'{"a": "\xe4"}'), ("c.json", b"[" * 100_000), ("c.json", b'{"a": 1}{"b": 2}'),
    ("c.yaml", b"a: 2020-99-99"), ("c.yaml", b"a: " + b"[" * 1000), ("c.yaml", b"a: !!int abc"),
    ("c.yaml", b"? [a]\n: 1"),
    ("c.yaml", b"a: !!python/object:os.system x"), ("c.json", b'{"a": ' + b"9" * 5000 + b"}"), ("c.json", b""),
    ("c.yaml", b"")])
def test_a_config_in_other_bytes_or_deep_data_is_one_line(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        config.read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_config_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "c.py").write_bytes(b"\xef\xbb\xbfx = 1\r\ny = '\xc3\xa4'\r\n")
    assert config.read(tmp_path / "c.py") == {"x": 1, "y": "ä"}


def test_a_run_s_config_without_a_model_or_data_is_one_line(tmp_path):
    path = tmp_path / "config.py"
    for text, key in (("", "model"), ("model = 5\ndata = {}\n", "model"), ("model = dict(a=1)\n", "data")):
        path.write_text(text)
        with pytest.raises(UserError, match=f"config.py: {key}: missing; expected a mapping"):
            config.read_frozen(path)
