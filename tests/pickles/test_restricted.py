"""What can be read out of a checkpoint, what is refused, and that nothing in one is ever run."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import gzip
import io
import os
import pickle
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ecm_cluster.base.errors import UserError
from ecm_cluster.node.mmdet_trainer import config
from ecm_cluster.node.training import loading
from ecm_cluster.pickles import archive, restricted


class Own:
    """A class of the user's code."""


class Runs:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


PLAIN = [
    None, True, 3, 10**40, 1.5, "text", b"bytes\xff", b"", 1j, bytearray(b"x"), (1, [2, {"a": 3}]), {1, 2},
    frozenset("a"), range(3), int, collections.OrderedDict(a=1), collections.Counter("aab"),
    collections.deque([1, 2], 3), collections.defaultdict(list, {1: [2]}), datetime.datetime(2024, 1, 2, 3),
    datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(1), Path("/a/b"), argparse.Namespace(lr=1),
    np.float64(0.1), np.float32(0.1), np.bool_(True), np.int64(3), np.complex64(1j), np.str_("abc"), np.str_(""),
    np.bytes_(b"ab"), np.dtype("f4"), np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(3)), np.zeros((0, 3)),
    np.array(["a", "bcd"]), np.arange(3, dtype=">i4"), np.random.RandomState(3).get_state(), torch.Size([2]),
    torch.float32, torch.device("cpu"), torch.ones(2), torch.ones(2, dtype=torch.bfloat16),
    torch.nn.Parameter(torch.ones(2)), torch.eye(3).to_sparse(), torch.ones(2) * 1j]
NOT_PLAIN = {
    "test_restricted.Own": Own(), "posix.mkdir": Runs(), "builtins.eval": eval, "dtype 'O8'": np.array([{}], object),
    "dtype 'M8'": np.datetime64("2020-01-01"), "dtype 'V4'": np.zeros(2, [("a", "i4")]),
    "torch.nn.modules.linear.Linear": torch.nn.Linear(1, 1), "numpy.random": np.random.default_rng(3),
    "numpy.ma": np.ma.array([1])}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, (np.ndarray, torch.Tensor)):
        whole = (lambda x: x.to_dense()) if isinstance(one, torch.Tensor) and one.is_sparse else lambda x: x
        return type(one) is type(other) and bool((whole(one) == whole(other)).all()) and one.shape == other.shape
    if isinstance(one, tuple) and type(one) is type(other):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def saved(tmp_path: Path, value: Any, **options: Any) -> Path:
    path = tmp_path / "weights.pth"
    torch.save(value, path, **options)
    return path


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}],
                         ids=["zip", "before torch 1.6", "protocol 4"])
def test_plain_data_tensors_and_numpys_arrays_come_back_as_they_were(tmp_path, options):
    found = loading.read(saved(tmp_path, PLAIN, **options))
    different = [(one, other) for one, other in zip(PLAIN, found) if not same(one, other)]
    assert not different and len(found) == len(PLAIN)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("named", NOT_PLAIN)
def test_anything_else_is_refused_by_its_name_in_one_line_and_never_run(tmp_path, monkeypatch, named, legacy):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path, {"meta": {"x": [NOT_PLAIN[named]]}}, _use_new_zipfile_serialization=not legacy)
    for look in (archive.check, loading.read):
        with pytest.raises(archive.InvalidCheckpoint) as refused:
            look(path)
        text = str(refused.value)
        assert named in text and str(path) in text and "weights.pth" in text and "weights_only=False" in text
        assert "\n" not in text and "\033" not in text
    assert os.listdir(tmp_path) == ["weights.pth"]


def test_the_remedy_that_a_refusal_names_makes_a_file_that_is_read(tmp_path, monkeypatch):
    path = saved(tmp_path, {"state_dict": {"w": torch.ones(3)}, "meta": {"x": np.ma.array([1])}})
    with pytest.raises(UserError) as refused:
        archive.check(path)
    option, code, *names = shlex.split(str(refused.value).partition("weights: python ")[2])
    assert option == "-c"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [option, *names])
    exec(code, {})
    assert same(loading.read(tmp_path / "weights.pth")["state_dict"]["w"], torch.ones(3))


def pickled(*opcodes: bytes) -> io.BytesIO:
    return io.BytesIO(b"\x80\x02" + b"".join(opcodes) + b".")


@pytest.mark.parametrize("stream, named", [
    (pickled(b"cos\nsystem\n"), "os.system"), (pickled(b"c__builtin__\neval\n"), "builtins.eval"),
    (pickled(b"(ios\nsystem\n"), "os.system"), (pickled(b"\x8c\x0bcollections\x8c\x0fabc.sys.modules\x93"), "abc.sys"),
    (pickled(b"ctorch.storage\n_load_from_bytes\n"), "_load_from_bytes"),
    (pickled(b"ctorch\nload\n"), "torch.load"), (pickled(b"ctorch\nhub\n"), "torch.hub"),
    (pickled(b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x85", b"tR"), "encode"),
    # a state for a class, which would change it for everybody
    (pickled(b"ccollections\nOrderedDict\n}(X\x01\x00\x00\x00xK\x01ub"), "state of builtins.type")])
def test_crafted_pickles_are_refused(stream, named):
    for reader in (restricted.Structure, restricted.Unpickler):
        stream.seek(0)
        with pytest.raises((restricted.Refused, TypeError), match=named if "encode" not in named else ""):
            reader(stream).load()


def test_numpys_own_numbers_stay_as_they_are_regardless_of_what_a_file_says_of_them(tmp_path):
    # a dtype's state goes into the dtype, and numpy has one of each for everybody
    stream = pickled(b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8\x89\x89tR(K\x03X\x01\x00\x00\x00>NNNJ\xff\xff\xff\xff"
                     b"J\xff\xff\xff\xffK?tb")
    assert restricted.Unpickler(stream).load() == np.dtype(">f8")
    assert np.dtype("f8").isnative and not np.dtype("f8").hasobject


@pytest.mark.parametrize("damage, reason", [
    (lambda data: b"", "an empty file"), (lambda data: b"\n<HTML>404</html>", "a web page"),
    (lambda data: b"<?xml version='1.0'?><Error/>", "a web page"), (lambda data: b'{"error": 404}', "plain text"),
    (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs.*git lfs pull"),
    (lambda data: b"\x10\0\0\0\0\0\0\0" + b'{"w":{}}' + b" " * 8, "a safetensors file.*load_file"),
    (lambda data: gzip.compress(data), "gzip archive; unpack it"), (lambda data: b"\0" * 100, "an unknown format"),
    (lambda data: data[:2000], "truncated"), (lambda data: pickle.dumps({"a": 1}, 2), "not written by torch.save"),
    (lambda data: data[:-100], "truncated")])
def test_damaged_files_and_others_are_named(tmp_path, damage, reason):
    path = saved(tmp_path, {"state_dict": {"w": torch.ones(1000)}})
    path.write_bytes(damage(path.read_bytes()))
    for look in (archive.check, loading.read):
        with pytest.raises(archive.InvalidCheckpoint, match=reason) as refused:
            look(path)
        assert "\n" not in str(refused.value)


def test_a_file_of_the_earlier_format_that_was_cut_off_is_damaged_and_no_unknown_client(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"w": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    for length in range(1, len(data) - 100, 7):
        path.write_bytes(data[:length])
        with contextlib.suppress(archive.InvalidCheckpoint):
            archive.check(path)
            continue
        with pytest.raises(archive.InvalidCheckpoint, match="invalid checkpoint"):
            archive.check(path)


@pytest.mark.parametrize("content, hint", [
    ({"a": 1}, ""), ({}, ""), ({"state_dict": {}}, ""), ({"state_dict": None}, ""), ({"state_dict": {"a": 1}}, ""),
    ([torch.ones(1)], ""), (torch.ones(1), ""), (None, ""), ({"state_dict": {"w": np.zeros(3)}}, ""),
    ({"a": np.float64(1)}, ""),
    ({"model": {"w": torch.ones(1)}}, "f['model']"), ({"epoch": 1, "net": {"w": torch.ones(1)}}, "f['net']"),
    ({"optimizer": {"state": {0: {"m": torch.ones(1)}}}}, "")])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_without_weights_is_refused(tmp_path, content, hint, zipped):
    path = tmp_path / "a.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(archive.InvalidCheckpoint, match="contains no weights; expected a dict of tensors") as refused:
        archive.check_weights(path)
    said = str(refused.value)
    assert (hint in said if hint else "python" not in said) and "\n" not in said


def test_a_dict_of_tensors_is_one_automatically_and_under_the_names_that_its_reader_knows(tmp_path):
    weights = {"w": torch.ones(1), "b": torch.nn.Parameter(torch.ones(1))}
    for content in (weights, {"state_dict": weights}, {"state_dict": {"b": weights["b"]}, "meta": {}},
                    {"state_dict": torch.nn.BatchNorm2d(2).state_dict()}):
        torch.save(content, tmp_path / "a.pth")
        archive.check_weights(tmp_path / "a.pth")
    torch.save({"model": weights}, tmp_path / "a.pth")
    archive.check_weights(tmp_path / "a.pth", "state_dict", "model")


def test_an_archive_that_lacks_a_tensor_and_a_torchscript_program_are_refused(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(3)})
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "part.pth", "w") as part:
        for entry in whole.infolist():
            if "/data/" not in entry.filename:
                part.writestr(entry, whole.read(entry))
    with pytest.raises(UserError, match="the data of tensor storage 0 is missing"):
        archive.check(tmp_path / "part.pth")
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "program.pth")
    with pytest.raises(UserError, match="contains a TorchScript program"):
        loading.read(tmp_path / "program.pth")


def test_numbers_of_the_other_numpy_are_read(tmp_path):
    text = pickle.dumps(np.float64(2.5), 2)
    for name in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        other = text.replace(b"numpy._core.multiarray", name).replace(b"numpy.core.multiarray", name)
        assert restricted.Unpickler(io.BytesIO(other)).load() == np.float64(2.5)


def test_torchs_switch_for_its_own_reader_does_not_stop_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    assert loading.read(saved(tmp_path, {"x": np.float64(1)}))["x"] == 1
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"


def test_a_structure_is_read_without_torch_and_numpy(tmp_path, root):
    path = saved(tmp_path, PLAIN)
    code = ("import sys; sys.modules['torch'] = sys.modules['numpy'] = None; "
            f"from ecm_cluster.pickles import archive; archive.check({str(path)!r})")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)


def test_mmcv_reads_files_the_same_way(tmp_path, monkeypatch):
    from mmcv.runner import CheckpointLoader, load_checkpoint

    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
    monkeypatch.setattr(torch.load, "__kwdefaults__", dict(torch.load.__kwdefaults__))
    monkeypatch.setattr(torch.hub.load_state_dict_from_url, "__defaults__",
                        torch.hub.load_state_dict_from_url.__defaults__)
    config.guard()
    model = torch.nn.Linear(2, 1)
    path = saved(tmp_path, {"state_dict": model.state_dict(), "meta": {"hook_msgs": {"best_score": np.float64(0.3)}}})
    assert load_checkpoint(torch.nn.Linear(2, 1), str(path), map_location="cpu")["meta"]["hook_msgs"]
    with pytest.raises(UserError, match="posix.mkdir"):
        load_checkpoint(model, str(saved(tmp_path, {"state_dict": {}, "x": Runs()})), map_location="cpu")


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_what_is_swapped_after_the_check_is_refused_as_well(tmp_path, monkeypatch, form):
    """Any user that can write to the folder can replace the file at any moment, and 1.13 ignores ``pickle_module``."""
    path = tmp_path / "evil.pth"
    torch.save({"x": Runs()}, path, _use_new_zipfile_serialization=form == "zip")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(archive, "check", lambda path: None)
    with pytest.raises(UserError, match="posix.mkdir"):
        loading.read(path)
    with pytest.raises(restricted.Refused, match="posix.mkdir"):
        loading.read_bytes(path.read_bytes())
    assert not Path("ran").exists()
    assert torch.serialization.pickle is pickle


WITHOUT_NETWORK = """
import os
import sys
from pathlib import Path
import torch
from mmcv.runner import CheckpointLoader, load_checkpoint
from ecm_cluster.node.mmdet_trainer import config as mmdet_config

class Runs:
    def __reduce__(self):
        return os.mkdir, (os.path.join(sys.argv[1], "executed"),)

mmdet_config.guard()
mmdet_config.guard()
hub = Path(sys.argv[1], "hub", "checkpoints")
hub.mkdir(parents=True)
torch.hub.set_dir(str(hub.parent))
name = "resnet50-0676ba61.pth"
torch.save({"state_dict": {}, "x": Runs()}, hub / name)
(hub / "legacy.pth").write_bytes((hub / name).read_bytes())
url = "https://download.pytorch.org/models/" + name
forms = [str(hub / name), "torchvision://resnet50", "modelzoo://resnet50", "torchvision://ResNet50_Weights.IMAGENET1K_V1",
         url, "http://example.org/legacy.pth"]
loads = [lambda form=form: load_checkpoint(torch.nn.Linear(1, 1), form, map_location="cpu") for form in forms]
loads += [lambda: CheckpointLoader.load_checkpoint(forms[0]), lambda: torch.load(hub / name),
          lambda: torch.hub.load_state_dict_from_url(url), lambda: torch.serialization.load(str(hub / name))]
refused = 0
for load in loads:
    try:
        load()
    except Exception as error:
        assert "mkdir" in str(error), (type(error), error)
        refused += 1
assert refused == len(loads), refused
assert not Path(sys.argv[1], "executed").exists()
"""


@pytest.mark.slow
def test_no_form_of_weights_runs_code_on_any_torch(tmp_path, root):
    """What a hub has fetched is in its cache, so that no network is needed."""
    script = tmp_path / "load.py"
    script.write_text(WITHOUT_NETWORK)
    done = subprocess.run([sys.executable, script, tmp_path], cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def rezipped(folder: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    """A checkpoint of one tensor of 100 numbers, with the content of some of its entries replaced."""
    torch.save({"state_dict": {"w": torch.arange(100.0)}}, folder / "good.pth")
    with zipfile.ZipFile(folder / "good.pth") as old, zipfile.ZipFile(folder / "made.pth", "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
    return folder / "made.pth"


def with_tensor(size: Any, stride: Any, offset: int = 0, numel: int = 100) -> bytes:
    """The pickle of ``{'state_dict': {'w': tensor}}``, written by hand."""
    def code(value: Any) -> bytes:
        if isinstance(value, tuple):
            return b"(" + b"".join(map(code, value)) + b"t"
        if isinstance(value, str):
            return b"X" + len(value).to_bytes(4, "little") + value.encode()
        number = pickle.encode_long(value)
        return pickle.LONG1 + bytes([len(number)]) + number

    storage = b"(" + code("storage") + b"ctorch\nFloatStorage\n" + code("0") + code("cpu") + code(numel) + b"tQ"
    made = (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + code(offset) + code(size) + code(stride)
            + b"\x89ccollections\nOrderedDict\n)RtR")
    return b"\x80\x02}" + code("state_dict") + b"}" + code("w") + made + b"ss."


@pytest.mark.parametrize(("shape", "said"), [
    (((101,), (1,)), "beyond its storage"), (((10, 10), (100, 1)), "beyond its storage"),
    (((-1,), (1,)), "valid shape"),
    (((10,), (-1,)), "valid shape"), (((100,), (1,), 5), "beyond its storage"), (((10,), (1,), -5), "valid shape"),
    (((2**62, 2**62), (1, 1)), "beyond its storage"), (((100,), (1,), 0, 10**9), "storage 0 is truncated"),
    (((0,), (1,), 0, -5), "a storage of -5 numbers"), (((5, 5), (1,)), "valid shape"),
    (((100,), (1,)), ""), (((0, 5), (1, 1)), ""), (((), ()), ""), (((7, 9), (0, 1)), "")])
def test_a_tensor_is_within_its_storage_and_that_within_the_file(tmp_path, shape, said):
    path = rezipped(tmp_path, lambda name, data: with_tensor(*shape) if name == "data.pkl" else data)
    if said:
        with pytest.raises(archive.InvalidCheckpoint, match=said):
            archive.check_weights(path)
    else:
        archive.check_weights(path)
        assert loading.read(path)["state_dict"]["w"].shape == shape[0]


BIG = b"\x8a\x06\x00\x00\x00\x00\x00\x01"  # 2**40


@pytest.mark.parametrize("body", [
    b"cbuiltins\nbytes\n(" + BIG + b"tR", b"cbuiltins\nbytearray\n(" + BIG + b"tR", b"]" * 9000 + b"a" * 8999,
    *(b"cbuiltins\n%s\n(cbuiltins\nrange\n(" % kind + BIG + b"tRt" + call for kind in (b"list", b"set", b"tuple")
      for call in (b"R", b"\x81")), b"(cbuiltins\nrange\n(" + BIG + b"tRicollections\ndeque\n",
    b"(ccollections\ndeque\ncbuiltins\nrange\n(" + BIG + b"tRo", b")" + b"\x85" * 9000,
    b"})" + b"\x85" * 9000 + b"Ns", b"\x8b\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 7 + b"\x7f",
    b"I" + b"9" * 9999 + b"\n",
    b"(lq\x01" + b"cbuiltins\nlist\n(h\x01tRq\x01" * 9 + b"h\x07"])
def test_a_pickle_that_makes_much_out_of_little_is_one_line(tmp_path, body):
    head = b"\x80\x02}X\x0a\x00\x00\x00state_dict}X\x01\x00\x00\x00w"
    path = rezipped(tmp_path, lambda name, data: head + body + b"ss." if name == "data.pkl" else data)
    with pytest.raises(UserError) as caught:
        archive.check_weights(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["data/0", "data.pkl"])
def test_an_archive_that_expands_to_much_more_than_it_has_is_not_unpacked(tmp_path, entry):
    big = b"\x80\x02" + b"(" * (80 << 20)
    path = rezipped(tmp_path, lambda name, data: big if name == entry else data, zipfile.ZIP_DEFLATED)
    with pytest.raises(archive.InvalidCheckpoint, match="would unpack to 80 MiB"):
        archive.check(path)


def test_data_that_were_cut_short_are_met_before_they_are_read(tmp_path):
    path = rezipped(tmp_path, lambda name, data: data[:40] if name == "data/0" else data)
    with pytest.raises(archive.InvalidCheckpoint, match="storage 0 is truncated"):
        archive.check(path)
    torch.save({"state_dict": {"w": torch.ones(100)}}, path, _use_new_zipfile_serialization=False)
    archive.check_weights(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(archive.InvalidCheckpoint, match="truncated"):
        archive.check(path)
