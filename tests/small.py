"""The main job as small as it gets: 24 images of 6 classes, one short epoch. Used by tests of every kind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ecm_cluster import status
from ecm_cluster.rundir.run import Run

ROOT = Path(__file__).resolve().parent.parent
CLASSES = 6
TRAINER_EPOCH = 100  # iterations of the trainer in plain PyTorch


def verb(name: str, *args: object, env: Mapping[str, str] | None = None, cwd: Path | None = None,
         code: int | None = 0, source: Path = ROOT, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run ``python -m ecm_cluster.NAME`` as a user would; with ``code`` its exit code is checked.

    Args:
        source: The checkout that it is imported from.
    """
    environ = {**os.environ, **(env or {}), "PYTHONPATH": str(source)}
    done = subprocess.run([sys.executable, "-m", f"ecm_cluster.{name}", *map(str, args)], env=environ,
                          cwd=cwd or source, capture_output=True, text=True, check=False, timeout=timeout)
    if code is not None:
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def make_data(folder: Path) -> Path:
    """A data set of 24 training and 8 validation images."""
    verb("synthesize", folder, "--train-images", 24, "--val-images", 8, "--classes", CLASSES, "--seed", 1)
    return folder


def first_images(data: Path, folder: Path, images: int) -> Path:
    """A data set in ``folder``, which exists, of the first images of another."""
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        name = f"annotations/lvis_v1_{split}.json"
        table = json.loads((data / name).read_text())
        table["images"] = table["images"][:images]
        kept = {image["id"] for image in table["images"]}
        table["annotations"] = [a for a in table["annotations"] if a["image_id"] in kept]
        (folder / name).write_text(json.dumps(table))
        (folder / f"{split}2017").symlink_to(data / f"{split}2017")
    return folder


def job_flags(data: Path, runs: Path, name: str, **options: Any) -> list[str]:
    """Flags of submit for the demo job on the small data, which may be a pack: then each node has a scratch of its own.

    Args:
        options: mmdet options with __ for dots.
    """
    sets = {"model.roi_head.bbox_head.num_classes": CLASSES, "model.roi_head.mask_head.num_classes": CLASSES,
            "runner.max_epochs": 1, "log_config.interval": 1,
            **{key.replace("__", "."): value for key, value in options.items()}}
    return ["demo", "--data-root", str(data), "--runs-dir", str(runs), "--name", name, "--gpus", "1",
            "--scratch", str(runs / ("scratch/$SLURMD_NODENAME" if data.suffix == ".pack" else "scratch")),
            *(part for key, value in sets.items() for part in ("--set", f"{key}={value}"))]


def with_code(folder: Path, text: str) -> list[str]:
    """Flags for the demo config with a module of the user's own, which is imported first."""
    (folder / "code").mkdir()
    (folder / "code/own.py").write_text(text)
    config = folder / "own_config.py"
    config.write_text(f"_base_ = ['{ROOT}/configs/demo.py']\n"
                      + ("custom_hooks = [dict(type='Own')]\n" if "class Own(" in text else "")
                      + "custom_imports = dict(imports=['mmdet_ext.register', 'own'], allow_failed_imports=False)\n")
    return ["--code", str(folder / "code"), "--config", str(config)]


def hook(body: str) -> str:
    """The source of a hook that does ``body`` after each iteration."""
    return ("import os, signal, time\nfrom mmcv.runner import HOOKS, Hook\n\n\n@HOOKS.register_module()\n"
            "class Own(Hook):\n"
            f"    def after_train_iter(self, runner):\n        {body}\n")


def trainer_flags(runs: Path, name: str, *more: object, seconds: float = 0.05) -> list[str]:
    """Flags of ``submit`` for a trainer in plain PyTorch, two epochs of it.

    Args:
        seconds: That a step takes beside its arithmetic, so that a signal meets the training in its middle.
    """
    sets = {"per_epoch": TRAINER_EPOCH, "epochs": 2, "seconds": seconds}
    return [*map(str, ("--trainer", "tiny_trainer:make", "--code", ROOT / "tests" / "other_trainer", "--runs-dir", runs,
                       "--name", name, "--device", "cpu", "--cpus-per-gpu", 1, "--mem-per-gpu", "1G", *more)),
            *(part for key, value in sets.items() for part in ("--set", f"{key}={value}"))]


def wait_until(holds: Callable[[], Any], what: str, seconds: float = 180, look: Callable[[], str] = str) -> Any:
    """Poll until ``holds()`` is truthy and return its value; fail with ``look()`` after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        value = holds()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}\n{look()}"
        time.sleep(0.2)


def state_of(run: Run, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What ``status RUN --json`` says."""
    return json.loads(verb("status", run.path, "--json", env=env).stdout)


def state_now(run: Run, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The same, asked in this process: a loop that starts Python five times a second starves what it waits for."""
    said, before = io.StringIO(), dict(os.environ)
    os.environ.update(env or {})
    try:
        with contextlib.redirect_stdout(said):
            assert status.main([str(run.path), "--json"]) == 0
    finally:
        os.environ.clear()
        os.environ.update(before)
    return json.loads(said.getvalue())


def await_state(run: Run, *states: str, env: Mapping[str, str] | None = None, seconds: float = 240) -> dict[str, Any]:
    """Wait until status says one of ``states``; fails at once where the run has ended otherwise."""
    ended = {"done", "failed"} - set(states)
    found: dict[str, Any] = {}

    def there() -> bool:
        found.update(state_now(run, env))
        assert found["state"] not in ended, f"{found['state']}: {found['reason']}\n{logs_of(run)}"
        return found["state"] in states

    wait_until(there, f"state {states}", seconds, lambda: f"{found}\n{logs_of(run)}")
    return found


def logs_of(run: Run) -> str:
    """The end of each log of a run, for the report of a failing test."""
    paths = [*run.path.glob("logs/*.log"), *run.path.glob("submitit/*.out"), *run.path.glob("evaluations/*/logs/*")]
    return "\n".join(f"== {p}\n{p.read_text(errors='replace')[-3000:]}" for p in sorted(paths))
