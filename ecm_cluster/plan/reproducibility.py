"""Does a resumed training end as an uninterrupted one? What in a config keeps state that no checkpoint holds.

Read from the ``type`` names of a config alone. What is not known here counts as not exact: a hook, a data set or a
transform is named below only where its code (mmcv 1.7, mmdet 2.28) keeps nothing between two samples or two
iterations, or keeps it in the model, in the optimizer or in ``runner.meta``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


HOOKS = _names("""
    EMAHook ExpMomentumEMAHook LinearMomentumEMAHook SyncBuffersHook SyncNormHook YOLOXModeSwitchHook SetEpochInfoHook
    NumClassCheckHook CheckInvalidLossHook EmptyCacheHook IterTimerHook MemoryProfilerHook DistSamplerSeedHook
    TextLoggerHook TensorboardLoggerHook WandbLoggerHook MlflowLoggerHook NeptuneLoggerHook OptimizerHook
    Fp16OptimizerHook GradientCumulativeOptimizerHook GradientCumulativeFp16OptimizerHook""")

DATASETS = _names("""
    LVISFromFile LVISDataset LVISV05Dataset LVISV1Dataset CocoDataset CustomDataset CityscapesDataset
    DeepFashionDataset Objects365V1Dataset Objects365V2Dataset VOCDataset XMLDataset WIDERFaceDataset
    ConcatDataset RepeatDataset ClassBalancedDataset MultiImageMixDataset""")

TRANSFORMS = _names("""
    LoadImageFromFile LoadMultiChannelImageFromFiles LoadAnnotations LoadPanopticAnnotations LoadProposals
    FilterAnnotations Resize RandomFlip RandomShift Pad Normalize RandomCrop RandomCenterCropPad SegRescale
    PhotoMetricDistortion Expand MinIoURandomCrop CutOut RandomAffine YOLOXHSVRandomAug CopyPaste Mosaic MixUp
    AutoAugment Shear Rotate Translate ColorTransform EqualizeTransform BrightnessTransform ContrastTransform
    Compose ToTensor ImageToTensor Transpose ToDataContainer DefaultFormatBundle Collect WrapFieldsToLists""")

# why something is not exact, where that is known
REASONS = {
    "SyncRandomSizeHook": "it draws the next epoch's image size and keeps it in the data set",
    "RFSearchHook": "it rebuilds convolutions while it searches, and a resume does not find them again",
    "Albu": "albumentations draws from generators of its own",
    "DynamicRoIHead": "it keeps a history of overlaps",
}
MODELS = frozenset({"DynamicRoIHead"})
AVERAGES = frozenset({"EMAHook", "ExpMomentumEMAHook", "LinearMomentumEMAHook"})

# heads whose losses average their number of positives over the processes
AVERAGING_HEADS = _names("""
    ATSSHead AutoAssignHead DDODHead DETRHead DeformableDETRHead FCOSHead GFLHead LDHead Mask2FormerHead
    MaskFormerHead PAAHead TOODHead VFNetHead YOLOFHead YOLOXHead""")
SYNCED_NORMS = frozenset({"SyncBN", "MMSyncBN"})


def problems(cfg: dict[str, Any]) -> list[str]:
    """What in a resolved mmdet config would make a resumed run another one, a sentence each; empty if nothing."""
    found = []
    for key, known in (("custom_hooks", HOOKS), ("optimizer_config", HOOKS), ("data.train", DATASETS | TRANSFORMS)):
        value: Any = cfg
        for part in key.split("."):
            value = (value or {}).get(part)
        found += [_sentence(key, name) for name in _types(value) if name not in known]
    found += [_sentence("model", name) for name in _types(cfg.get("model")) if name in MODELS]
    averages = [name for name in _types(cfg.get("custom_hooks")) if name in AVERAGES]
    if len(averages) > 1:
        found.append(f"custom_hooks: {' and '.join(averages)} keep their averages in buffers of the same names")
    return list(dict.fromkeys(found))


def describe(cfg: dict[str, Any], device: str) -> str:
    """The line of the plan: yes, or no with the first reason; and what another number of ranks would change."""
    lost = elastic_problems(cfg)
    return _resumed(cfg, device) + (f"; another number of ranks would change it: {lost[0]}" if lost else "")


def _resumed(cfg: dict[str, Any], device: str) -> str:
    found = problems(cfg)
    if found:
        more = f" (and {len(found) - 1} more: {'; '.join(found[1:])})" if found[1:] else ""
        return f"no, because {found[0]}{more}"
    if device == "cuda":
        return "after a resume the same samples, draws and learning rates; sums on a GPU differ in their last bits"
    return "yes: a resumed run ends in the same bits as an uninterrupted one"


def elastic_problems(cfg: dict[str, Any]) -> list[str]:
    """What makes a run depend on how many processes play its ranks, beyond the order of summation."""
    types = list(_types(cfg.get("model")))
    found = [f"{name} takes its statistics over the processes of one forward pass"
             for name in types if name in SYNCED_NORMS]
    found += [f"{name} averages its number of positives over the processes of one forward pass"
              for name in types if name in AVERAGING_HEADS]
    return list(dict.fromkeys(found))


def _sentence(key: str, name: str) -> str:
    return f"{key}: {name}: {REASONS.get(name, 'whether it keeps state outside the checkpoint is not known')}"


def _types(value: Any) -> Iterator[str]:
    """Every ``type`` in a config value, outer ones first."""
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value["type"]
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from _types(inner)
