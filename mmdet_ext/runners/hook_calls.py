"""How a runner calls its hooks: what they do to dataset, model and weights comes back once when it resumes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmcv.fileio.handlers.json_handler import set_default
from mmcv.runner.hooks import Hook, LoggerHook, LrUpdaterHook, OptimizerHook, TextLoggerHook

from .effects import Effects

LONGEST = 10_000  # characters of one value in a JSON log line


def _loggable(line: Mapping[Any, Any]) -> dict[Any, Any]:
    """What JSON can hold of a log line, and holds in a few characters: its first one is all of ``runner.meta``."""
    kept = {}
    for key, value in line.items():
        try:
            if len(json.dumps({key: value}, default=set_default)) <= LONGEST:
                kept[key] = value
        except Exception:  # hooks keep what they want in runner.meta, and looking at it runs their code
            continue
    return kept


def _rounded(value: Any) -> Any:
    """A value of a log line with five decimals, as in mmcv; or five digits, where mmcv makes 0 of a learning rate."""
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if abs(value) < 0.1 else round(value, 5)
    return value


def _keep_lines(hook: Any) -> None:
    """Have the JSON lines that a text logger cannot write, as the disk is full, come before its next one.

    Each line has its time, for what draws losses over time.
    """
    dump, hook._round_float = hook._dump_log, _rounded
    unwritten: list[dict[str, Any]] = []

    def dump_log(line: dict[str, Any], runner: Any) -> None:
        if unwritten and runner.rank == 0:
            with open(hook.json_log_path, "ab+") as log:
                if log.seek(0, 2) and os.pread(log.fileno(), 1, log.tell() - 1) != b"\n":
                    log.write(b"\n")  # behind the part of a line that was written
        unwritten.append({**_loggable(line), "timestamp": time.time()})
        while unwritten:
            dump(unwritten[0], runner)
            del unwritten[0]

    hook._dump_log = dump_log


def _keeps_its_own_state(hook: Any) -> bool:
    """Whether a hook has its state in runner.meta, or recomputes it in before_run: mmcv's, and mmdet's like them."""
    home = type(hook).__module__.partition(".")[0]
    return home == "mmcv" or (home == "mmdet" and isinstance(hook, (LrUpdaterHook, OptimizerHook, LoggerHook)))


class HookCallingRunner:
    """Mixed into mmcv's runners.

    Attributes:
        dataset: The training set, as hooks reach it.
        plain_of_ranks: Of a restored state, the plain attributes of the model for each virtual rank of this process.
        effects: What hooks have done since the run began; None before it.
    """

    dataset: Any = None
    plain_of_ranks: Sequence[Any] = ()
    effects: Effects | None = None
    # of a restored state, until its epoch continues
    _restored: dict[str, torch.Tensor] | None = None
    _restored_optimizer: dict[str, Any] | None = None
    _done_by_hooks: dict[str, Any] | None = None  # in a restored state, until its epoch continues

    @property
    def unkept(self) -> Sequence[str]:
        """Names of what the newest state lacks of what hooks and modules hold."""
        return self.effects.unkept if self.effects else ()

    def call_hook(self, fn_name: str) -> None:
        """As mmcv's; but the weights of a restored state outlive what hooks do to them on the way in.

        Entering an epoch in its middle is an event of its own: a hook that has ``before_resumed_epoch`` gets that
        one instead of ``before_train_epoch``. What the others do to weights at an epoch's start (EMA swaps them)
        was done when the epoch began, so the restored weights are put back after it.
        """
        r: Any = self
        resumed = self._restored is not None and r.position > 0 and fn_name == "before_train_epoch"
        for hook in r.hooks:
            if fn_name == "before_run" and isinstance(hook, TextLoggerHook):
                _keep_lines(hook)
            handler = getattr(hook, "before_resumed_epoch", None) if resumed else None
            try:
                self._call(hook, fn_name, handler or getattr(hook, fn_name))
            except OSError as error:
                if not isinstance(hook, LoggerHook) or fn_name == "before_run":
                    raise
                # a full disk takes no log lines, which must not end a training
                r.logger.warning("%s: a log line could not be written (%s)", type(hook).__name__, error.strerror)
                r.log_buffer.clear_output()
        if resumed:
            self._put_back(whole=True)
        elif self._restored is not None and fn_name in ("before_run", "before_epoch"):
            self._load(whole=False)

    def _call(self, hook: Any, event: str, handler: Callable[[Any], None]) -> None:
        """Call a hook; a call in which it replaces parts of dataset or model is noted, if it will not come again."""
        if event in ("before_train_epoch", "after_train_epoch", "before_train_iter", "after_train_iter") \
                and getattr(type(hook), event) is not getattr(Hook, event) and self.effects is not None:
            self.effects.watch(hook, event, self, handler)
        else:
            handler(self)

    def _load(self, whole: bool) -> list[str]:
        """Weights and optimizer of the restored state; without ``whole`` only the weights that have a place yet.

        Hooks add to both: EMA its buffers in ``before_run``, others a layer or a group of parameters at some epoch; and
        they take the learning rate that a training begins with from an optimizer as it was built.

        Returns:
            Keys of the model that the state lacks.

        Raises:
            RuntimeError, ValueError: The state is another model's, or another optimizer's.
        """
        r: Any = self
        model, weights = r._bare_model(), self._restored or {}
        if not whole:
            there = model.state_dict()
            fits = {key: value for key, value in weights.items()
                    if key in there and getattr(there[key], "shape", None) == getattr(value, "shape", None)}
            return list(model.load_state_dict(fits, strict=False).missing_keys)
        model.load_state_dict(weights, strict=True)
        state: Any = self._restored_optimizer
        if isinstance(r.optimizer, dict):
            for name, optimizer in r.optimizer.items():
                optimizer.load_state_dict(state[name])
        else:
            r.optimizer.load_state_dict(state)
        return []

    def _put_back(self, whole: bool) -> None:
        """Weights, optimizer, and what hooks had set, as they were in the restored state."""
        r: Any = self
        self._load(whole)
        assert self.effects is not None
        missing = self.effects.put_back(self._done_by_hooks or {})
        for name in missing if whole else ():
            r.logger.warning("resumed without %s, which a hook had set: it does not exist any more", name)
        if self.plain_of_ranks:
            r.rank_buffers.give_plain(self.plain_of_ranks)  # what hooks set is rank 0's, these are each rank's own

    def _note_what_hooks_do(self, by_epoch: bool) -> None:
        """From here on; in a restored training, all that they had done is done again first."""
        r: Any = self
        if self.effects is None:
            others = [hook for hook in r.hooks if not _keeps_its_own_state(hook)]
            named = {f"{at} {type(hook).__name__}": hook for at, hook in enumerate(others)}
            self.effects = Effects(self.dataset, r._bare_model(), named)
        if self._restored is not None:
            # at the beginning of the epoch in progress they are called in any case
            self.effects.call_again([call for call in (self._done_by_hooks or {}).get("calls", ()) if not (
                r.position > 0 and call[1] == "before_train_epoch" and call[2] == r._epoch)], r)
            self._put_back(whole=not (by_epoch and r.position > 0))  # else those of the epoch in progress come first
