"""The sections of an mmdet config that are not the arguments of a class: their keys, and the kinds of their values.

Kinds are letters, as in :mod:`ecm_cluster.mmclasses.classes`. :mod:`ecm_cluster.keycheck.keys` says how each key is
treated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..mmclasses.classes import arguments_of
from ..mmclasses.datasets import WRAPPERS
from . import keys
from .kinds import kind_of


def _kinds(text: str) -> dict[str, str]:
    return dict(word.partition(":")[::2] for word in text.split())


_LOADER = _kinds("samples_per_gpu:i workers_per_gpu:i persistent_workers:b shuffle:b pin_memory:b prefetch_factor:in "
                 "multiprocessing_context timeout:fi class_aware_sampler:dn")
_KNOWN = {
    "": _kinds("""
        model:d data:d optimizer:d optimizer_config:dn lr_config:dn momentum_config:dn runner:d checkpoint_config:dn
        evaluation:dn log_config:dn custom_hooks:ln fp16:dn auto_scale_lr:dn custom_imports:dn train_cfg:dn test_cfg:dn
        load_from:ns resume_from:ns workflow:l find_unused_parameters:b cudnn_benchmark:b opencv_num_threads:in
        mp_start_method:ns total_epochs:i data_root:s gpu_ids device:s seed:in auto_resume:b work_dir:ns dist_params:dn
        log_level:is model_wrapper:dn tracker_tensorboard:bd tracker_wandb:bd"""),
    "data": _kinds("samples_per_gpu:i workers_per_gpu:i imgs_per_gpu:i persistent_workers:b train:dl val:dln test:dln "
                   "train_dataloader:d val_dataloader:d test_dataloader:d"),
    **dict.fromkeys(("data.train_dataloader", "data.val_dataloader", "data.test_dataloader"), _LOADER),
    "runner": _kinds("type:s max_epochs:in max_iters:in"),
    "auto_scale_lr": _kinds("enable:b base_batch_size:i"),
    "log_config": _kinds("interval:i hooks:l"),
    "custom_imports": _kinds("imports:ls allow_failed_imports:b"),
    # torch.nn.utils.clip_grad_norm_
    "optimizer_config.grad_clip": _kinds("max_norm:fi norm_type:fis error_if_nonfinite:b foreach:bn"),
    # optimizer constructors of mmcv and mmdet
    "optimizer.paramwise_cfg": _kinds(
        "bias_lr_mult:fi bias_decay_mult:fi norm_decay_mult:fi dwconv_decay_mult:fi dcn_offset_lr_mult:fi "
        "bypass_duplicate:b custom_keys:d num_layers:i decay_rate:fi decay_type:s"),
    "fp16": _kinds("loss_scale:fsd grad_clip:dn coalesce:b bucket_size_mb:i type:s"),
    "checkpoint_config": _kinds("interval:i by_epoch:b"),
}
# sections that this launcher itself reads: values must be of the right kinds even if they were set with +
READ_HERE = ("data", "data.train_dataloader", "data.val_dataloader", "data.test_dataloader", "runner", "auto_scale_lr",
             "custom_imports", "checkpoint_config")
# settings of hooks for which mmcv accepts only a few words, in these sections
_HOOKS = ("lr_config", "momentum_config", "fp16", "optimizer_config", "checkpoint_config", "custom_hooks", "log_config")
_WARMUPS = ("constant", "linear", "exp")
_PRIORITIES = ("HIGHEST", "VERY_HIGH", "HIGH", "ABOVE_NORMAL", "NORMAL", "BELOW_NORMAL", "LOW", "VERY_LOW", "LOWEST")
CONSTRUCTORS = ("DefaultOptimizerConstructor", "LearningRateDecayOptimizerConstructor",
                "LayerDecayOptimizerConstructor")
# sections that are the arguments of a class, and need not name it
OF_CLASS = {"checkpoint_config": "CheckpointHook", "evaluation": "EvalHook", "optimizer_config": "OptimizerHook",
             "fp16": "Fp16OptimizerHook"}


def known(cfg: dict[str, Any], section: str) -> tuple[str, dict[str, str]] | None:
    """The name of a section for messages, and its valid keys with their kinds; None: any key is valid.

    Args:
        cfg: Other parts of it decide which keys ``evaluation``, ``lr_config`` and ``optimizer`` accept.
        section: A dotted key; empty: the config itself.
    """
    valid = {name.rpartition(".")[2]: "" for name in keys.known() if name.rpartition(".")[0] == section}
    own = cfg.get(section.partition(".")[0])
    if section in OF_CLASS:
        if section == "optimizer_config" and cfg.get("fp16") is not None:
            valid.update(_of_class("hook", "Fp16OptimizerHook"))
        if isinstance(own, dict) and own.get("type") not in (None, OF_CLASS[section]):
            return None  # the arguments of another class
        valid.update({"type": "s", **_of_class("hook", OF_CLASS[section])})
        if section == "evaluation" and not _add_metrics(cfg, valid):
            return None
    elif section in ("lr_config", "momentum_config"):
        return _of_policy(section, own)
    elif section == "optimizer.paramwise_cfg" and isinstance(own, dict) \
            and own.get("constructor") not in (None, *CONSTRUCTORS):
        return None
    valid.update(_KNOWN.get(section, {}))
    return (f"section {section}" if section else "an mmdet config", valid) if valid else None


def unknown_choice(key: str, value: Any) -> str | None:
    """Why the setting of a hook is not one of the words that mmcv accepts, as the end of a message; None: it is."""
    name, kind = key.rpartition(".")[2], kind_of(value)
    if key.partition(".")[0] not in _HOOKS:
        return None
    if name == "warmup" and kind == "s" and value not in _WARMUPS:
        return f"invalid value {value!r}; expected one of {', '.join(_WARMUPS)} or None"
    if name == "loss_scale" and (kind == "i" or kind == "s" and value != "dynamic"):
        hint = f": give {value}.0" if kind == "i" else ""
        return f"invalid value {value!r}; expected a float, a dict or 'dynamic'{hint}"
    if name == "priority" and (kind == "i" and not 0 <= value <= 100
                               or kind == "s" and value.upper() not in _PRIORITIES):
        return f"invalid value {value!r}; expected one of {', '.join(_PRIORITIES)}, or 0 to 100"
    return None


def _of_class(section: str, name: str) -> dict[str, str]:
    known_class = arguments_of(section, name)
    assert known_class is not None
    return known_class.kinds


def _add_metrics(cfg: dict[str, Any], valid: dict[str, str]) -> bool:
    """Add the arguments of the datasets' ``evaluate``; False if a dataset is unknown."""
    for kind in _types(cfg.get("data", {})):
        accepted = arguments_of("evaluate", kind)
        if accepted is None or accepted.is_open and kind != "ConcatDataset":
            return False
        valid.update(accepted.kinds)
    return True


def _types(data: Any) -> Iterator[str]:
    """Types of the datasets that are scored."""
    for split in ("val", "test"):
        waiting = [data.get(split)] if isinstance(data, dict) else []
        while waiting:
            one = waiting.pop()
            if isinstance(one, (list, tuple)):
                waiting += one
            elif isinstance(one, dict):
                if one.get("type") in (*WRAPPERS, "ConcatDataset"):
                    waiting += [one.get("dataset"), one.get("datasets")]
                else:
                    yield str(one.get("type"))


def _of_policy(section: str, own: Any) -> tuple[str, dict[str, str]] | None:
    """The arguments of the hook that ``policy`` selects, as in mmcv's ``register_lr_hook``."""
    if not isinstance(own, dict) or "type" in own:
        return None
    policy = own.get("policy")
    if not isinstance(policy, str):
        return f"{section} without a policy", {"policy": "s", "type": "s"}
    accepted = arguments_of("hook", hook_of_policy(section, policy))
    if accepted is None:
        return None
    return f"{section} with policy {policy!r}", {"policy": "s", "warmup": "ns", **accepted.kinds}


def hook_of_policy(section: str, policy: str) -> str:
    """The class of mmcv that a policy selects: ``step`` → ``StepLrUpdaterHook``."""
    policy = policy.title() if policy == policy.lower() else policy
    return policy + ("LrUpdaterHook" if section == "lr_config" else "MomentumUpdaterHook")
