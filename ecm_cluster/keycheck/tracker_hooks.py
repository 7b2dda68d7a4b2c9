"""Which trackers a job and its config ask for, and what replaces mmcv's hooks of the same purpose.

Those hooks start a record of their own at each attempt, and an error of theirs ends the training. So a tracker is fed
from the training's log instead, see :mod:`ecm_cluster.trackers`, and a config that names such a hook gets that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from ..job import tracker_options
from ..job.job import Job
from ..job.tracker_options import CONFIG_KEY, DISABLED, OFFLINE, ONLINE, TRACKERS
from ..mmconfig.lookup import at

HOOKS = {"TensorboardLoggerHook": "tensorboard", "WandbLoggerHook": "wandb", "MMDetWandbHook": "wandb"}
# hooks for other services, which are not replaced
SINGLE = ("ClearMLLoggerHook", "DvcliveLoggerHook", "MlflowLoggerHook", "NeptuneLoggerHook", "PaviLoggerHook",
          "SegmindLoggerHook")
SECTIONS = ("log_config.hooks", "custom_hooks")
# arguments that say when a hook is called, and how W&B resumes a run, which is settled here
_SETTLED = ("type", "priority", "by_epoch", "ignore_last", "reset_flag", "commit", "with_step", "init_kwargs")
_SETTLED_BY_INIT = ("resume", "id", "dir", "reinit")
_MODES = {"dryrun": OFFLINE, "run": ONLINE, "shared": ONLINE}  # other names that W&B accepts


def asked(job: Job, cfg: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The trackers of a run, each with its options; the job takes precedence over the config.

    Raises:
        UserError: The config has an unknown option, or an invalid value.
    """
    found: dict[str, Any] = {}
    if job.trainer is None:
        for key, hook in hooks(cfg):
            name = HOOKS[kind_of(hook)]
            found[name] = tracker_options.checked(name, _options(hook, cfg), f"config: {key}: ")
        for name in TRACKERS:
            if (key := CONFIG_KEY + name) in cfg:
                given = {name: tracker_options.checked(name, cfg[key], f"config: {key}: ")}
                found = tracker_options.laid_over(found, given)
    found = tracker_options.laid_over(found, job.trackers)
    return {name: options for name, options in found.items()
            if options is not False and options.get("mode") != DISABLED}


def hooks(cfg: Mapping[str, Any], kinds: Any = HOOKS) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, hook) of each hook of these kinds."""
    for section in SECTIONS:
        for number, hook in enumerate(at(cfg, section) or ()):
            if isinstance(hook, Mapping) and kind_of(hook) in kinds:
                yield f"{section}.{number}", dict(hook)


def kind_of(hook: Any) -> str:
    """The name of a hook's class, without a scope."""
    return str(at(hook, "type")).rpartition(".")[2]


def without(cfg: dict[str, Any]) -> dict[str, Any]:
    """A config without the hooks that are replaced, and with the log that feeds the trackers."""
    replaced = [hook for _, hook in hooks(cfg)]
    if not replaced:
        return cfg
    cfg = {**cfg, **{key: [hook for hook in cfg[key] if kind_of(hook) not in HOOKS]
                     for key in ("custom_hooks",) if cfg.get(key)}}
    if at(cfg, "log_config.hooks"):
        kept = [hook for hook in cfg["log_config"]["hooks"] if kind_of(hook) not in HOOKS]
        cfg["log_config"] = {**cfg["log_config"], "hooks": kept}
    if not any(kind_of(hook) == "TextLoggerHook" for key in SECTIONS for hook in at(cfg, key) or ()):
        own = {name: replaced[0][name] for name in ("interval", "by_epoch") if name in replaced[0]}
        log = {"interval": own.get("interval", 10), **(cfg.get("log_config") or {})}
        cfg["log_config"] = {**log, "hooks": [*log.get("hooks", ()), {"type": "TextLoggerHook", **own}]}
    return cfg


def unused(cfg: Mapping[str, Any]) -> Iterator[str]:
    """The arguments of replaced hooks that have no effect."""
    for key, hook in hooks(cfg):
        known = TRACKERS[HOOKS[kind_of(hook)]]
        yield from (f"{key}.{name}" for name in hook if name not in known and name not in _SETTLED)
        yield from (f"{key}.init_kwargs.{name}" for name in hook.get("init_kwargs") or ()
                    if name not in known and name not in _SETTLED_BY_INIT)


def _options(hook: Mapping[str, Any], cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A hook's arguments as options of its tracker, as far as there are such."""
    name = HOOKS[kind_of(hook)]
    given = {"interval": at(cfg, "log_config.interval") or 10, **hook}
    if name == "wandb":
        given.update(hook.get("init_kwargs") or {})
        mode = given.get("mode") or os.environ.get("WANDB_MODE") or ONLINE  # W&B's own default
        given["mode"] = _MODES.get(mode, mode)
    return {key: value for key, value in given.items() if key in TRACKERS[name] and value is not None}
