"""Weights are found in every config and fetched once, with their digest; what remains names local files."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import importlib.util
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ecm_cluster.base.errors import UserError
from ecm_cluster.base.units import size_text
from ecm_cluster.console import progress
from ecm_cluster.freeze import model_urls, weights
from ecm_cluster.mmconfig import config as config_reader

CONTENT = b"\x80\x02" + b"weights " * 5000
SHA = hashlib.sha256(CONTENT).hexdigest()
NAMED = f"resnet-{SHA[:8]}.pth"
KEY = "model.backbone.init_cfg.checkpoint"


class Server:
    """A web server on this machine: what it answers by path, and what it was asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                outer.gate.wait(30)
                code, headers, body = outer.answers.get(self.path, (404, {}, b"no"))
                self.send_response(code)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # a client that gave up
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}{path}"

    def offer(self, path: str, body: bytes = CONTENT, code: int = 200, **headers: str) -> str:
        self.answers[path] = (code, {k.replace("_", "-"): v for k, v in headers.items()}, body)
        return self.url(path)

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    one = Server()
    yield one
    one.close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ECM_CLUSTER_WEIGHTS", str(tmp_path / "cache"))
    return tmp_path / "cache"


def config(source: object) -> dict:
    return {"model": {"type": "MaskRCNN", "backbone": {
        "type": "ResNet", "init_cfg": {"type": "Pretrained", "checkpoint": source}}}}


def kept(cache: Path) -> set[str]:
    """Names in the cache, without its locks."""
    return {p.name for p in cache.iterdir() if p.suffix != ".lock"} if cache.exists() else set()


def refused(cfg: dict) -> str:
    """The one line with which a config's weights are refused."""
    with pytest.raises(UserError) as caught:
        weights.fetch(weights.find(cfg))
    text = str(caught.value)
    assert "\n" not in text
    return text


# -- finding

def test_every_kind_of_reference_is_found_under_its_dotted_key(tmp_path: Path) -> None:
    own = tmp_path / "own.pth"
    own.write_bytes(CONTENT)
    cfg = {
        "pretrained": "https://host/left/over/variable.pth",
        "model": {
            "pretrained": "torchvision://resnet50",
            "teacher_ckpt": "https://host/teacher.pth",
            "backbone": {"init_cfg": [{"type": "Constant", "val": 1},
                                      {"type": "Pretrained", "checkpoint": "open-mmlab://resnet50_caffe"}]},
            "neck": {"init_cfg": {"type": "Kaiming", "override": {
                "type": "Pretrained", "name": "lateral", "checkpoint": str(own)}}},
            "heads": ({"text_encoder": "https://host/clip.pt"}, {"files": ["https://host/a.pth", "text"]}),
        },
        "load_from": str(own), "resume_from": None, "optimizer": {"type": "SGD", "lr": 0.02},
        "log_config": {"hooks": [{"type": "WandbLoggerHook", "site": "https://wandb.example"}]},
    }
    found = {w.key: w for w in weights.find(cfg)}
    assert set(found) == {
        "model.pretrained", "model.teacher_ckpt", "model.backbone.init_cfg.1.checkpoint",
        "model.neck.init_cfg.override.checkpoint", "model.heads.0.text_encoder", "model.heads.1.files.0",
        "load_from"}
    named, local = found["model.pretrained"], found["load_from"]
    assert named.url == "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    assert named.path.name == "resnet50-0676ba61.pth" and not named.present
    assert local.url is None and local.path == own and local.present


def test_a_config_without_weights_needs_nothing_and_stays_equal() -> None:
    cfg = {**config(None), "load_from": None, "resume_from": "", "stages": (1, [2, {"a": (3,)}])}
    assert weights.find(cfg) == [] and weights.fetch([]) == []
    assert weights.rewrite(cfg, []) == cfg


@pytest.mark.parametrize("source", ["s3://bucket/r50.pth", "petrel://b/r50.pth", "pavi://r50",
                                    "openmmlab:s3://b/r50.pth", "file:///tmp/r50.pth"])
def test_schemes_that_cannot_be_fetched_are_refused_with_what_is_valid(source: str) -> None:
    text = refused(config(source))
    assert KEY in text and source in text and "torchvision://" in text and f"--set {KEY}=PATH" in text


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    text = refused(config("torchvision://resnet5O"))
    assert "did you mean resnet50?" in text and f"--set {KEY}=PATH" in text
    assert "did you mean detectron2/resnet50_caffe?" in refused(config("open-mmlab://detectron2/resnet50_cafe"))


@pytest.mark.parametrize("source", ["missing.pth", ".", "x" * 300, "a\0b"])
def test_a_path_without_a_file_is_refused_and_its_key_named(source: str) -> None:
    text = refused(config(source))
    assert text.startswith(f"{KEY}: ")
    assert any(said in text for said in ("there is no file", "is a directory", "contains a NUL character"))
    assert "\0" in source or str(Path(source).absolute()) in text


@pytest.mark.parametrize("source", ["https://host/", "https://host", "https://host/..", "https://[bad/r50.pth"])
def test_a_url_that_names_no_file_is_refused(source: str) -> None:
    assert "names no file" in refused(config(source))


def test_weights_that_the_models_own_code_would_fetch_are_refused() -> None:
    text = refused({"model": {"backbone": {"type": "mmcls.TIMMBackbone", "pretrained": True}}})
    assert text.startswith("model.backbone.pretrained:") and "--set model.backbone.pretrained=PATH" in text
    assert weights.find({"model": {"backbone": {"pretrained": False}}}) == []


def test_a_classifier_from_mmcls_is_refused_where_its_backbone_cannot_be_cut_out() -> None:
    assert "init_cfg=dict(" in refused({"load_from": "mmcls://resnet50"})
    assert "init_cfg=dict(" in refused({"model": {"pretrained": "mmcls://resnet50"}})


def test_torchvisions_own_spelling_of_a_name_is_understood() -> None:
    urls = [weights.find(config(f"torchvision://{name}"))[0].url
            for name in ("ResNet50_Weights.IMAGENET1K_V2", "resnet50.imagenet1k_v2", "resnet50.default")]
    assert set(urls) == {"https://download.pytorch.org/models/resnet50-11ad3fa6.pth"}


def test_the_cache_is_where_the_user_says_or_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECM_CLUSTER_WEIGHTS", "~/w")
    assert weights.cache_folder() == Path.home() / "w"
    monkeypatch.delenv("ECM_CLUSTER_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert weights.cache_folder() == Path("/xdg/ecm-cluster/weights")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert weights.cache_folder() == Path.home() / ".cache/ecm-cluster/weights"
    weight, = weights.find(config("torchvision://resnet50"), Path("/site/w"))
    assert weight.path == Path("/site/w/resnet50-0676ba61.pth")


# -- fetching

def test_a_file_is_fetched_once_and_the_rewritten_config_names_it(server: Server, cache: Path, capsys: Any,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.offer(f"/models/{NAMED}")
    cfg = {**config(url), "load_from": url}
    found = weights.find(cfg)
    assert [w.present for w in found] == [False, False] and not cache.exists()
    monkeypatch.setattr(progress, "EVERY", 0.0)
    fetched = weights.fetch(found)
    assert server.asked == [f"/models/{NAMED}"]
    whole = size_text(len(CONTENT))
    assert f"fetching {url}: {whole} of {whole}, " in capsys.readouterr().err
    assert [(f.digest, f.size, f.downloaded) for f in fetched] == [(f"sha256:{SHA}", len(CONTENT), True)] * 2
    assert (cache / NAMED).read_bytes() == CONTENT
    record = json.loads((cache / f"{NAMED}.json").read_text())
    assert (record["url"], record["sha256"], record["size"]) == (url, SHA, len(CONTENT))

    local = weights.rewrite(cfg, fetched)
    assert local["load_from"] == local["model"]["backbone"]["init_cfg"]["checkpoint"] == str(cache / NAMED)
    assert cfg["load_from"] == url, "the config that was given has changed"
    after = weights.find(local)
    assert [w.url for w in after] == [None, None] and all(w.present for w in after)
    assert [f.digest for f in weights.fetch(after)] == [f"sha256:{SHA}"] * 2

    again = weights.fetch(weights.find(cfg))
    assert len(server.asked) == 1 and not again[0].downloaded and again[0].digest == fetched[0].digest


def test_lists_and_tuples_keep_their_kind_when_paths_are_put_in(server: Server, cache: Path) -> None:
    url = server.offer(f"/{NAMED}")
    cfg = {"model": {"heads": ({"type": "A", "files": [url, "x"]}, {"b": (1, 2)}), "pretrained": url}}
    assert weights.rewrite(cfg, weights.fetch(weights.find(cfg))) == {"model": {
        "heads": ({"type": "A", "files": [str(cache / NAMED), "x"]}, {"b": (1, 2)}),
        "pretrained": str(cache / NAMED)}}


def test_a_file_put_into_the_cache_by_hand_is_taken_without_a_network(cache: Path) -> None:
    cache.mkdir()
    (cache / NAMED).write_bytes(CONTENT)
    weight, = weights.find(config(f"https://nowhere.invalid/{NAMED}"))
    assert weight.present and weight.path == cache / NAMED
    one, = weights.fetch([weight])
    assert one.digest == f"sha256:{SHA}" and not one.downloaded
    assert json.loads((cache / f"{NAMED}.json").read_text())["sha256"] == SHA


def test_the_digest_is_read_from_the_record_until_the_file_changes(server: Server, cache: Path) -> None:
    url = server.offer("/latest.pth")
    weights.fetch(weights.find(config(url)))
    record = cache / "latest.pth.json"
    record.write_text(record.read_text().replace(SHA, "ab" * 32))
    assert weights.fetch(weights.find(config(url)))[0].digest == "sha256:" + "ab" * 32
    os.utime(cache / "latest.pth", ns=(1, 1))
    assert "has changed since it was fetched" in refused(config(url))


def test_without_a_network_the_error_names_url_place_and_option(server: Server, cache: Path) -> None:
    server.close()
    text = refused(config(server.url(f"/{NAMED}")))
    assert server.url(f"/{NAMED}") in text and str(cache / NAMED) in text and f"--set {KEY}=PATH" in text
    assert "refused" in text and kept(cache) == set()


def test_a_server_that_falls_silent_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_urls, "STALL_SECONDS", 0.1)
    url = server.offer(f"/{NAMED}")
    server.gate.clear()
    text = refused(config(url))
    server.gate.set()
    assert "timed out" in text and f"--set {KEY}=PATH" in text


def test_what_a_server_refuses_is_said(server: Server, cache: Path) -> None:
    text = refused(config(server.url(f"/{NAMED}")))
    assert "404 Not Found" in text and str(cache / NAMED) in text
    page = server.offer("/weights.pth", b"<html>Log in</html>", Content_Type="text/html; charset=utf-8")
    assert "web page" in refused(config(page))
    assert kept(cache) == set()


def test_a_download_that_breaks_off_leaves_nothing(server: Server, cache: Path) -> None:
    url = server.offer("/weights.pth", Content_Length=str(len(CONTENT) + 1))
    assert f"broke off after {len(CONTENT)} of {len(CONTENT) + 1} bytes" in refused(config(url))
    assert kept(cache) == set()
    url = server.offer("/weights.pth")
    assert weights.fetch(weights.find(config(url)))[0].digest == f"sha256:{SHA}"


def test_a_download_that_does_not_match_its_name_is_refused(server: Server, cache: Path) -> None:
    url = server.offer("/resnet50-0676ba61.pth")
    text = refused(config(url))
    assert "0676ba61" in text and SHA[:16] in text and "corrupt" in text and f"--set {KEY}=PATH" in text
    assert kept(cache) == set()


def test_a_broken_copy_in_the_cache_is_refused_with_the_remedy(cache: Path, tmp_path: Path) -> None:
    cache.mkdir()
    source = config(f"https://nowhere.invalid/{NAMED}")
    for content, what in ((CONTENT[:-1], "not what its name promises"), (b"", "empty")):
        (cache / NAMED).write_bytes(content)
        text = refused(source)
        assert what in text and f"delete it to fetch https://nowhere.invalid/{NAMED} again" in text
    cut = tmp_path / "mine-00000000.pth"
    with zipfile.ZipFile(cut, "w") as archive:
        archive.writestr("archive/data.pkl", CONTENT)
    assert weights.fetch(weights.find(config(str(cut))))[0].path == cut, "a user's own name promises nothing"
    cut.write_bytes(cut.read_bytes()[:-30])
    assert f"{cut} is cut short" in refused(config(str(cut)))


def test_two_urls_with_the_same_last_name_do_not_share_a_file(server: Server, cache: Path) -> None:
    one, two = server.offer("/a/latest.pth", b"one" * 9), server.offer("/b/latest.pth", b"two" * 9)
    cfg = {"load_from": one, "model": {"pretrained": two}}
    for _ in range(2):
        first, second = weights.fetch(weights.find(cfg))
        assert first.path == cache / "latest.pth" and first.path.read_bytes() == b"one" * 9
        assert second.path.name.endswith("-latest.pth") and second.path.read_bytes() == b"two" * 9
    assert sorted(server.asked) == ["/a/latest.pth", "/b/latest.pth"]


def test_the_query_of_a_url_is_not_a_part_of_the_files_name(server: Server, cache: Path) -> None:
    url = server.offer("/file%20a.pth?download=1&token=x/y.z")
    assert weights.fetch(weights.find(config(url)))[0].path == cache / "file a.pth"


def test_what_a_name_promises_is_read_from_its_end_and_dates_are_none() -> None:
    promised = model_urls.expected_digest
    assert promised("resnet50-0676ba61.pth") == "0676ba61"
    assert promised("vgg13-19584684.pth") == "19584684"
    assert promised("mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6.pth") == "d4b0c5d6"
    assert promised("mnasnet-3ffadce67e.pth.tar") == "3ffadce67e"
    silent = ("model-20210616.pth", "model-20210616090925.pth", "swin_tiny_window7_224.pth", "ViT-B-32.pt")
    assert [promised(name) for name in silent] == [""] * 4
    # published under a digest that is not theirs
    assert promised("efficientnet_b0_rwightman-3dd342df.pth") == "7f5810bc"
    assert promised("resnext50_32x4d_gn-c7e8b754.pth") == ""


def test_a_cache_that_cannot_be_written_is_named(server: Server, cache: Path) -> None:
    cache.write_text("a file in its place")
    text = refused(config(server.offer(f"/{NAMED}")))
    assert str(cache) in text and "ECM_CLUSTER_WEIGHTS" in text and f"--set {KEY}=PATH" in text


def test_a_full_disk_is_reported_from_a_broken_network(server: Server, cache: Path) -> None:
    code = ("import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
            "from ecm_cluster.console import cli; from ecm_cluster.freeze import weights\n"
            "cli.run(lambda argv: weights.fetch(weights.find({'load_from': sys.argv[1]})))")
    url = server.offer(f"/{NAMED}")
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True)
    assert f"{cache} cannot be written (File too large)" in done.stderr and done.stderr.count("\n") == 1
    assert kept(cache) == set()


def test_two_processes_at_once_fetch_a_file_once(server: Server, cache: Path) -> None:
    url = server.offer(f"/{NAMED}")
    server.gate.clear()
    code = ("import sys; from ecm_cluster.freeze import weights; print('started', flush=True)\n"
            "print(weights.fetch(weights.find({'load_from': sys.argv[1]}))[0].digest)")
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-c", code, url]
        both = [stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
                for _ in range(2)]
        for process in both:
            assert process.stdout is not None and process.stdout.readline() == "started\n"
        threading.Timer(0.3, server.gate.set).start()
        assert [process.communicate(timeout=30)[0] for process in both] == [f"sha256:{SHA}\n"] * 2
    assert server.asked == [f"/{NAMED}"]
    assert kept(cache) == {NAMED, f"{NAMED}.json"}


def test_a_fetch_that_is_killed_leaves_nothing_that_counts(server: Server, cache: Path) -> None:
    url = server.offer(f"/{NAMED}")
    code = ("import sys; from ecm_cluster.freeze import weights\n"
            "weights.fetch(weights.find({'load_from': sys.argv[1]}))")
    for point in ("after-data", "before-rename"):
        env = {**os.environ, "ECM_CLUSTER_KILL_AT": f"{point}:cache/{NAMED}"}
        assert subprocess.run([sys.executable, "-c", code, url], env=env).returncode == -9
        assert not (cache / NAMED).exists() and not weights.find({"load_from": url})[0].present
    assert weights.fetch(weights.find({"load_from": url}))[0].digest == f"sha256:{SHA}"


# -- against mmcv

@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # old names, on purpose
def test_every_name_resolves_to_the_file_that_mmcv_would_load(monkeypatch: pytest.MonkeyPatch,
                                                              tmp_path: Path) -> None:
    monkeypatch.setenv("MMCV_HOME", str(tmp_path))
    from mmcv.runner import checkpoint

    asked: list[str] = []

    # there is no internet: what mmcv asks of it is recorded instead
    def record(url: str, **_: object) -> dict:
        asked.append(url)
        return {"state_dict": {}}

    monkeypatch.setattr(checkpoint, "load_from_http", record)
    table = checkpoint.get_torchvision_models()
    monkeypatch.setattr(checkpoint, "get_torchvision_models", lambda: table)  # it takes 10 ms each time
    named = [(scheme, name) for scheme, names in weights.SCHEMES.items() for name in model_urls.table(names)]
    assert len(named) > 300
    for scheme, name in [*named, ("torchvision", "ResNet50_Weights.IMAGENET1K_V2")]:
        checkpoint.CheckpointLoader.load_checkpoint(f"{scheme}://{name}")
        weight, = weights.find(config(f"{scheme}://{name}"))
        assert weight.url == asked[-1], f"{scheme}://{name}"


@pytest.mark.slow
def test_a_backbone_from_mmcls_is_loaded_as_mmcv_loads_it(monkeypatch: pytest.MonkeyPatch,
                                                          tmp_path: Path) -> None:
    import torch
    from mmcv.cnn import PretrainedInit

    name = model_urls.table("mmcls")["resnet50"].rsplit("/", 1)[1]
    file = tmp_path / "hub" / "checkpoints" / name  # where mmcv looks before it opens the network
    file.parent.mkdir(parents=True)
    values = torch.arange(6.0).reshape(2, 3)
    torch.save({"state_dict": {"backbone.stem.weight": values, "backbone.stem.bias": values[:, 0],
                               "head.fc.weight": -values}}, file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    whole, part = torch.nn.ModuleDict({"stem": torch.nn.Linear(3, 2)}), torch.nn.Linear(3, 2)
    for prefix, inside in ((None, whole), ("stem", part)):
        cfg = config("mmcls://resnet50")
        if prefix:
            cfg["model"]["backbone"]["init_cfg"]["prefix"] = prefix
        weight, = weights.find(cfg)
        local = weights.rewrite(cfg, [weights.Fetched(weight, file, "", 0, False)])
        for source in (cfg, local):
            init = dict(source["model"]["backbone"]["init_cfg"])
            init.pop("type")
            weight_in, bias_in = inside.parameters()
            torch.nn.init.zeros_(weight_in), torch.nn.init.zeros_(bias_in)
            PretrainedInit(**init)(inside)
            assert torch.equal(weight_in, values) and torch.equal(bias_in, values[:, 0]), source


@pytest.mark.slow
def test_every_config_that_mmdet_ships_resolves_or_is_refused_in_one_line(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("mmdet")
    assert spec is not None and spec.origin is not None
    home = Path(spec.origin).parent / ".mim" / "configs"
    found, refusals, rest = 0, set(), []
    for file in sorted(home.rglob("*.py")):
        cfg = config_reader.read(file)
        try:
            here = weights.find(cfg)
        except UserError as error:
            assert "\n" not in str(error)
            refusals.add(str(error))
            continue
        found += len(here)
        local = weights.rewrite(cfg, [weights.Fetched(w, tmp_path / "w.pth", "", 0, False) for w in here])
        texts = [value for value in leaves(local.get("model", {})) if isinstance(value, str)]
        rest += [(file.name, text) for text in texts if "://" in text]
    assert found > 500 and rest == []
    # three name a file that a web page offers, one lets timm fetch
    assert sorted(" ".join(text.split()[1:5]) for text in refusals) == [
        "True lets the model's", *["there is no file"] * 3]


def leaves(value: object) -> Iterator[object]:
    if isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value
