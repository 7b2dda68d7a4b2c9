"""One shipped config through the product: trained, stopped and resumed, scored, and each compared with stock mmdet."""

from __future__ import annotations

import contextlib
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

from ecm_cluster.base.errors import UserError
from ecm_cluster.mmconfig import config
from ecm_cluster.rundir.run import Run

from . import data, product, shrinking, stock

EXIT_STOPPED = 75
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the first six of COCO's twelve


def run(which: str, out: Path, keep: bool = False) -> dict[str, Any]:
    """Try one config, ``family/name``; what came of it, as a row of the table.

    Args:
        out: Folder for a folder of its own.
        keep: Leave its data and its runs there.

    Returns:
        ``config``, ``shrunk`` (what was changed beyond the usual), ``seconds``, and for each of ``trains``,
        ``as_stock``, ``resumes``, ``scores`` what was found, or the reason why not.
    """
    began = time.monotonic()
    folder = out / which.replace("/", ".")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    row: dict[str, Any] = {"config": which}
    trial = _Trial(which, folder, row)
    with contextlib.suppress(product.Failed):  # the row has it
        trial.run()
    row["seconds"] = round(time.monotonic() - began, 1)
    for left in () if keep else ("runs", "world"):
        shutil.rmtree(folder / left, ignore_errors=True)
    return row


class _Trial:
    def __init__(self, which: str, folder: Path, row: dict[str, Any]) -> None:
        self.which, self.folder, self.row = which, folder, row
        self.config, self.runs = folder / "small.py", folder / "runs"

    def run(self) -> None:
        self._step("prepared", "prepare", self._prepare)
        straight, broken = (self.runs / name for name in ("straight", "broken"))
        try:
            self._step("submits", "submit", lambda: self._submit())
        except product.Failed:
            self._step("as_stock", "stock", lambda: stock.train(self.config, self.folder / "stock", None))
            return
        config = Run(straight).config_file
        try:
            iterations = self._step("trains", "straight", lambda: self._train(Run(straight), None))
        except product.Failed:
            self._step("as_stock", "stock", lambda: stock.train(config, self.folder / "stock", None))
            return
        last = Run(straight).checkpoints_dir / str(Run(straight).completion())
        for key, name, step in (
            ("as_stock", "stock", lambda: stock.train(config, self.folder / "stock", last)),
            ("resumes", "broken", lambda: self._resume(Run(broken), iterations // 2 + 1, last)),
            ("scores", "evaluate", lambda: product.evaluate(Run(straight))),
            ("mmdet_scores", "stock_evaluate", lambda: stock.evaluate(config, last)),
        ):
            if key == "scores" and self.row["submits"]:
                self.row["scores"] = {"failed": self.row["submits"]}
                continue
            with contextlib.suppress(product.Failed):
                self._step(key, name, step)

    def _step(self, key: str, name: str, step: Any) -> Any:
        began = time.monotonic()
        try:
            self.row[key] = product.forked(step, self.folder / f"{name}.log")
        except product.Failed as failed:
            self.row[key] = {"failed": str(failed)[:300]}
            raise
        finally:
            self.row.setdefault("times", {})[name] = round(time.monotonic() - began, 1)
        return self.row[key]

    def _prepare(self) -> list[str]:
        family, name = self.which.split("/", 1)
        world = self.folder / "world"
        cfg = config.read(f"mmdet::{family}/{name}.py")
        small, said = shrinking.shrink(cfg, family, name, str(world))
        data.furnish(small)
        self.config.write_text(config.dump(small))
        return said

    def _submit(self) -> str | None:
        """Both runs; the reason, where the product takes them only without an evaluation."""
        reason = None
        try:
            product.submitted(self.config, self.runs, "straight")
        except (UserError, product.Failed) as refused:
            reason = str(refused)
        try:
            if reason is not None:
                product.submitted(self.config, self.runs, "straight", "--no-eval")
            product.submitted(self.config, self.runs, "broken", "--no-eval")
        except (UserError, product.Failed) as refused:
            raise product.Failed(f"refused: {refused}") from None
        return reason

    def _train(self, run: Run, stop_after: int | None) -> int:
        code = product.train(run, stop_after)
        wanted = 0 if stop_after is None else EXIT_STOPPED
        if code != wanted:
            raise product.Failed(f"the worker ended with {code}, expected {wanted}")
        from ecm_cluster.rundir import checkpoints

        return max(manifest.iteration for manifest in checkpoints.manifests(run))

    def _resume(self, run: Run, stop_after: int, straight: Path) -> dict[str, Any]:
        """Stop at an iteration, resume, and compare with the run that was not stopped."""
        stopped = product.forked(partial(self._train, run, stop_after), self.folder / "broken-1.log")
        product.forked(partial(self._train, run, None), self.folder / "broken-2.log")
        from comparing import bits, log_lines, state_in

        resumed = state_in(run.checkpoints_dir / str(run.completion()))
        whole = state_in(straight)
        unlike = [key for key in whole.keys() | resumed.keys() if bits(whole.get(key)) != bits(resumed.get(key))]
        same_log = log_lines(run) == log_lines(Run(straight.parent.parent))
        return {"stopped_at": stopped, "unlike": unlike, "same_log": same_log}
