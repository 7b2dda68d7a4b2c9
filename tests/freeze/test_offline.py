"""A compute node never opens the network: the task runs where there is none, on weights that submit fetched."""

from __future__ import annotations

import hashlib
import http.server
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import ROOT, await_state, job_flags, verb

from ecm_cluster.rundir.run import Run

pytestmark = pytest.mark.slow

LOOPBACK = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: up, running
os.execv(sys.argv[1], sys.argv[1:])
"""
CODE = """
import pathlib, socket
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=3).close()
    answer = "reached"
except OSError:
    answer = "cut off"
pathlib.Path({answer!r}).write_text(answer)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, Path, list[str]]]:
    """A web server: its port, its folder, and the paths that were asked for."""
    folder, asked = tmp_path / "www", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *args: object) -> None:
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Handler(*a, directory=str(folder)))
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made.server_address[1], folder, asked
    made.shutdown()


def python_without_network(folder: Path) -> Path:
    """An interpreter that runs in a network namespace of its own, where only an empty loopback is up."""
    flags = ["--net"] if os.geteuid() == 0 else ["--net", "--map-root-user"]
    if subprocess.run(["unshare", *flags, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets this user make no network namespace")
    (folder / "loopback.py").write_text(LOOPBACK)
    wrapper = folder / "python"
    wrapper.write_text(f'#!/bin/sh\nexec unshare {" ".join(flags)} {sys.executable} {folder}/loopback.py '
                       f'{sys.executable} "$@"\n')
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    return wrapper


def test_weights_are_fetched_at_submission_and_the_task_trains_without_a_network(server, small_data, tmp_path):
    import torch
    from mmdet.models import build_backbone

    from ecm_cluster.mmconfig import config as configs

    port, folder, asked = server
    backbone = configs.read(ROOT / "configs/demo.py")["model"]["backbone"]
    state = build_backbone(backbone).state_dict()
    torch.save(state, folder / "weights.pth")
    name = f"tiny-{hashlib.sha256((folder / 'weights.pth').read_bytes()).hexdigest()[:8]}.pth"
    (folder / "weights.pth").rename(folder / name)
    (tmp_path / "code").mkdir()
    (tmp_path / "code/asking.py").write_text(CODE.format(port=port, answer=str(tmp_path / "answer")))
    config = tmp_path / "pretrained.py"
    config.write_text(f"_base_ = ['{ROOT}/configs/demo.py']\nmodel = dict(backbone=dict(init_cfg=dict("
                      f"_delete_=True, type='Pretrained', checkpoint='http://127.0.0.1:{port}/{name}')))\n"
                      "custom_imports = dict(imports=['mmdet_ext.register', 'asking'], allow_failed_imports=False)\n")
    env = {"ECM_CLUSTER_WEIGHTS": str(tmp_path / "weights")}
    flags = [*job_flags(small_data, tmp_path / "runs", "offline"), "--config", config, "--code", tmp_path / "code",
             "--cluster", "local", "--python", python_without_network(tmp_path)]
    assert name in verb("submit", *flags, "--dry-run", env=env).stdout
    assert asked == []
    verb("submit", *flags, env=env)
    run = Run(tmp_path / "runs/offline")
    await_state(run, "done")
    assert (tmp_path / "answer").read_text() == "cut off"
    assert asked == [f"/{name}"]
    assert str(tmp_path / "weights" / name) in run.config_file.read_text()
    assert run.spec.weights[0]["digest"].startswith(f"sha256:{name[5:13]}")
