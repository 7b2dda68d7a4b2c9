"""Every config key that mmdet 2.x's train.py, test.py and ``train_detector`` read, and how this launcher treats it.

A key is carried out, refused or not used; the plan lists the keys of a config that are not used. An entry applies to
the key and everything below it, unless there is an entry for a longer key. A test collects the keys from the sources
of mmdet and mmcv, so that none is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..base.errors import UserError, one_of
from ..job.tracker_options import CONFIG_KEY, TRACKERS
from ..mmconfig.lookup import at
from . import tracker_hooks


def _names(prefix: str, text: str) -> dict[str, None]:
    return {f"{prefix}{name}": None for name in text.split()}


CARRIED_OUT = {
    **_names("", """
        model model_wrapper train_cfg test_cfg optimizer optimizer_config lr_config momentum_config fp16 log_config
        custom_hooks custom_imports load_from resume_from workflow find_unused_parameters cudnn_benchmark
        opencv_num_threads mp_start_method total_epochs data_root"""),
    **_names("auto_scale_lr.", "enable base_batch_size"),
    **_names("data.", "train test imgs_per_gpu samples_per_gpu workers_per_gpu persistent_workers"),
    **_names("data.train_dataloader.", """samples_per_gpu workers_per_gpu persistent_workers shuffle pin_memory
        prefetch_factor multiprocessing_context timeout class_aware_sampler"""),
    **_names("data.test_dataloader.", "samples_per_gpu workers_per_gpu"),
    **_names("runner.", "type max_epochs max_iters"),
    **_names("checkpoint_config.", "interval by_epoch"),
    **_names("evaluation.", "metric iou_thrs proposal_nums"),
    **_names(CONFIG_KEY, " ".join(TRACKERS)),
    **{f"{CONFIG_KEY}{name}.{key}": None for name, options in TRACKERS.items() for key in options},
}

_WHERE = "all files of a run are in its own directory"
_WHEN = "evaluation jobs score the last checkpoint and those selected by --eval-epochs or --eval-every"
_BEST = "`evaluate RUN --checkpoints all` scores every checkpoint; the table and `--checkpoints best` show the best"
_VAL = "checkpoints are scored on data.test, by evaluation jobs"
_COLLECT = "each rank of an evaluation writes its detections to the run directory"
_SCORER = "the evaluation's own scorers record all of their metrics"
_OTHER_SCORER = "it belongs to the metrics of other types of dataset than that of data.test"
_OF_OTHERS = tuple(f"evaluation.{key}" for key in (
    "iou_thr", "scale_ranges", "ioa_thr", "denorm_gt_bbox", "use_group_of", "imgfile_prefix", "semantic", "score_thr",
    "txtfile_prefix"))
_LVIS = "it is fixed by the LVIS protocol, as in mmdet"
_COMPLETE = "every batch is complete: samples are repeated to fill the last batch of an epoch"
_TEST_LOADER = "inference sets it itself, and detections do not depend on it"
_TRACKERS = "trackers get the figures of the training's log and of evaluations"
_DEVICE = "the job's device, nodes and gpus determine the hardware of a run"

NOT_USED: dict[str, str] = {
    **dict.fromkeys(("gpu_ids", "device"), _DEVICE),
    "seed": "the job's seed applies (--seed N)",
    "auto_resume": "a run always resumes from its own newest checkpoint",
    "work_dir": _WHERE,
    "dist_params": "the backend depends on the job's device, and ranks find each other through the run directory",
    "log_level": "train.log is always written at level INFO",
    "data.val": _VAL,
    "data.val_dataloader": _VAL,
    "data.train_dataloader.drop_last": _COMPLETE,
    **dict.fromkeys((f"data.test_dataloader.{key}" for key in (
        "shuffle", "pin_memory", "persistent_workers", "prefetch_factor", "multiprocessing_context", "timeout",
        "drop_last", "pin_memory_device", "in_order", "class_aware_sampler")), _TEST_LOADER),
    "data.train_dataloader.pin_memory_device": "batches are pinned for the rank's own GPU",
    "checkpoint_config.max_keep_ckpts": "the job's keep applies (--keep N), and checkpoints at ends of epochs are kept",
    "checkpoint_config.save_optimizer": "a checkpoint without the optimizer state cannot be resumed",
    "checkpoint_config.save_last": "the last checkpoint is always kept",
    **dict.fromkeys((f"checkpoint_config.{key}" for key in ("out_dir", "file_client_args", "filename_tmpl")), _WHERE),
    **dict.fromkeys((f"checkpoint_config.{key}" for key in ("create_symlink", "meta")),
                    "checkpoints are named and described by their manifests"),
    **dict.fromkeys((f"evaluation.{key}" for key in ("interval", "start", "by_epoch", "dynamic_intervals")), _WHEN),
    **dict.fromkeys((f"evaluation.{key}" for key in ("save_best", "rule", "greater_keys", "less_keys")), _BEST),
    **dict.fromkeys((f"evaluation.{key}" for key in (
        "out_dir", "file_client_args", "jsonfile_prefix", "outfile_prefix", "tmpdir", "gpu_collect", "test_fn",
        "broadcast_bn_buffer", "logger", "nproc")), _COLLECT),
    **dict.fromkeys((f"evaluation.{key}" for key in ("classwise", "metric_items")), _SCORER),
    **dict.fromkeys(_OF_OTHERS, _OTHER_SCORER),
}

# with these values a key has the same effect here as in mmdet, so the plan need not list it
_AS_HERE: dict[str, Callable[[Any, dict[str, Any]], bool]] = {
    "dist_params": lambda value, cfg: set(value) <= {"backend"},
    "log_level": lambda value, cfg: value == "INFO",
    "data.val": lambda value, cfg: _source(value) == _source(cfg["data"].get("test")),
    "checkpoint_config.save_optimizer": lambda value, cfg: bool(value),
    "checkpoint_config.save_last": lambda value, cfg: bool(value),
    # passed on to a dataset that is scored by its own evaluate
    **{key: lambda value, cfg: not _rules(cfg) & {"coco", "lvis"} for key in _OF_OTHERS},
}

_JOB = "the job sets it; remove it"
_LOADER = "mmdet's build_dataloader sets it itself; remove it"
REFUSED: dict[str, str] = {
    **dict.fromkeys((f"data.{split}_dataloader.{key}" for split in ("train", "val", "test") for key in (
        "dist", "seed", "num_gpus", "runner_type")), _JOB),
    **dict.fromkeys((f"data.{split}_dataloader.{key}" for split in ("train", "val", "test") for key in (
        "dataset", "batch_size", "sampler", "batch_sampler", "num_workers", "collate_fn", "worker_init_fn",
        "generator")), _LOADER),
    "data.train_dataloader.in_order": "batches are always in the order of the sampler; remove it",
    **dict.fromkeys((f"runner.{key}" for key in ("model", "optimizer", "work_dir", "logger", "meta")), _JOB),
    "runner.batch_processor": "mmcv deprecates it; define train_step in the model instead",
    "runner.constructor": "only mmcv's DefaultRunnerConstructor is supported; use custom_hooks instead",
    "checkpoint_config.sync_buffer": "it would change the model whenever a checkpoint is written; use "
                                     "custom_hooks=[dict(type='SyncBuffersHook')] instead",
    "checkpoint_config.type": "checkpoints are committed by this launcher; list your own hook in custom_hooks",
}
_HARMLESS: dict[str, Callable[[Any], bool]] = {
    "runner.constructor": lambda value: value == "DefaultRunnerConstructor",
    "checkpoint_config.sync_buffer": lambda value: not value,
    "checkpoint_config.type": lambda value: value == "CheckpointHook",
}
# sections in which mmdet accepts no other keys
CLOSED = ("data.train_dataloader", "data.test_dataloader", "runner")
START_METHODS = ("fork", "spawn", "forkserver", None)  # of multiprocessing
RUNNERS = ("EpochBasedRunner", "IterBasedRunner")


def known() -> set[str]:
    """All dotted keys with an entry."""
    return {*CARRIED_OUT, *NOT_USED, *REFUSED}


def verdict(key: str) -> str | None:
    """``carried out``, ``refused`` or ``not used``; None for a key that mmdet does not read."""
    name = key
    while name:
        for word, names in (("carried out", CARRIED_OUT), ("refused", REFUSED), ("not used", NOT_USED)):
            if name in names:
                return word
        name = name.rpartition(".")[0]
    return None


def unused(cfg: dict[str, Any]) -> dict[str, str]:
    """The keys of a resolved config that have no effect here, each with the reason."""
    found = {key: NOT_USED[key] for key, value in _set_in(cfg, NOT_USED)
             if key not in _AS_HERE or not _AS_HERE[key](value, cfg)}
    found.update(dict.fromkeys(tracker_hooks.unused(cfg), _TRACKERS))
    fixed = {"evaluation.iou_thrs": _LVIS, "evaluation.proposal_nums": _LVIS} if _rules(cfg) == {"lvis"} else {}
    removed = [f"{section}.{number}.keep_local" for section in ("log_config.hooks", "custom_hooks")
               for number, hook in enumerate(_list(cfg, section)) if at(hook, "keep_local") is False]
    return {**found, **dict.fromkeys(removed, _WHERE), **{key: fixed[key] for key, _ in _set_in(cfg, fixed)}}


def _list(cfg: dict[str, Any], key: str) -> list[Any] | tuple[Any, ...]:
    value = at(cfg, key)
    return value if isinstance(value, (list, tuple)) else ()


def _rules(cfg: dict[str, Any]) -> set[str | None]:
    """The protocols by which the datasets of data.test are scored."""
    from ..datacheck import labels
    from ..mmclasses import datasets

    return {labels.rule(leaf.type) for leaf in datasets.leaves(cfg, "test")}


def refuse(cfg: dict[str, Any]) -> None:
    """Refuse settings of a settled config that this launcher does not support and cannot ignore.

    Raises:
        UserError: With the key, the reason and the remedy.
    """
    for key, value in _set_in(cfg, REFUSED):
        if key not in _HARMLESS or not _HARMLESS[key](value):
            raise UserError(f"config: {key} is not supported: {REFUSED[key]}")
    for section in CLOSED:
        inside = [name.rpartition(".")[2] for name in known() if name.rpartition(".")[0] == section]
        for key in at(cfg, section) or {}:
            if key not in inside:
                raise one_of(f"config: {section}", key,
                             sorted(name for name in inside if f"{section}.{name}" not in REFUSED))
    _refuse_runner(cfg)
    _refuse_parts(cfg)
    if cfg.get("mp_start_method") not in START_METHODS:
        raise one_of("config: mp_start_method", cfg["mp_start_method"], START_METHODS[:-1])
    if cfg.get("fp16") is not None and "type" in (cfg.get("optimizer_config") or {}):
        raise UserError("config: fp16 and optimizer_config.type cannot be combined, as in mmdet; expected only one of "
                        "them: for gradient accumulation give --set fp16=None optimizer_config.type="
                        "GradientCumulativeFp16OptimizerHook and its loss_scale")
    for key in ("train_cfg", "test_cfg"):
        if cfg.get(key) is not None and cfg["model"].get(key) is not None:
            raise UserError(f"config: {key} is set both at the top level and in model; expected only one of them: "
                            f"give --set {key}=None")


def _refuse_runner(cfg: dict[str, Any]) -> None:
    runner = cfg["runner"]
    kind = runner.get("type")
    if kind not in RUNNERS:
        raise one_of("config: runner.type", kind, RUNNERS)
    limit, other = ("max_epochs", "max_iters") if kind == "EpochBasedRunner" else ("max_iters", "max_epochs")
    if type(runner.get(limit)) is not int or runner[limit] < 1:
        raise UserError(f"config: invalid runner.{limit}: {runner.get(limit)!r}; expected a positive integer for "
                        f"{kind}, e.g. --set runner.{limit}=12")
    if runner.get(other) is not None:
        raise UserError(f"config: runner.{other} cannot be combined with {kind}, which uses {limit}; remove it, or "
                        f"set runner.type={RUNNERS[kind == RUNNERS[0]]}")
    workflow = [tuple(step) for step in cfg.get("workflow") or [("train", 1)]]
    if len(workflow) != 1 or workflow[0][0] != "train" or workflow[0][1] < 1:
        raise UserError(f"config: invalid workflow: {workflow}; expected [('train', 1)], since evaluation jobs score "
                        "checkpoints. Give --eval-every, or for a validation loss a hook in custom_hooks")
    if kind == "IterBasedRunner" and at(cfg, "data.train_dataloader.class_aware_sampler"):
        raise UserError("config: data.train_dataloader.class_aware_sampler has no effect with IterBasedRunner in "
                        "mmdet; remove it, or use EpochBasedRunner or ClassBalancedDataset")


def _refuse_parts(cfg: dict[str, Any]) -> None:
    """Refuse optimizers and schedules with which mmcv would fail only after training has started."""
    if not {"type", "constructor"} & cfg["optimizer"].keys():
        raise UserError("config: optimizer has no 'type'; expected a single optimizer, e.g. --set optimizer.type=SGD "
                        "(optimizer.paramwise_cfg.custom_keys sets learning rates for parts of a model)")
    for section in ("lr_config", "momentum_config"):
        if cfg.get(section) and "policy" not in cfg[section]:
            raise UserError(f"config: {section} has no 'policy', by which mmcv selects the hook; add --set "
                            f"{section}.policy=step")
        if at(cfg, f"{section}.warmup_by_epoch") and cfg["runner"]["type"] == "IterBasedRunner":
            raise UserError(f"config: {section}.warmup_by_epoch cannot be combined with IterBasedRunner, which has no "
                            "epochs; remove it, and give warmup_iters in iterations")


def _set_in(cfg: dict[str, Any], names: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """(key, value) of each of these keys that a config sets, in their order."""
    for key in names:
        value = at(cfg, key)
        if value is not None:
            yield key, value


def _source(dataset: Any) -> Any:
    """The settings that identify a dataset: the files that it reads, and its classes."""
    if isinstance(dataset, (list, tuple)):
        return [_source(one) for one in dataset]
    if not isinstance(dataset, dict):
        return dataset
    return {key: _source(value) for key, value in dataset.items()
            if key in ("type", "ann_file", "img_prefix", "datasets", "dataset", "classes")}
