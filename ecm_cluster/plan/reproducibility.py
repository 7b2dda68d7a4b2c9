"""Whether a resumed training ends with the same result: which parts of a config have state outside of checkpoints.

Decided by the ``type`` names of a config. Unknown types count as not exact: a hook, a dataset or a transform is listed
below only if its code (mmcv 1.7, mmdet 2.28) keeps no state between samples or iterations, or keeps it in the model,
in the optimizer or in ``runner.meta``.
"""

from __future__ import annotations

from typing import Any

from ..mmconfig import lookup


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


HOOKS = _names("""
    EMAHook ExpMomentumEMAHook LinearMomentumEMAHook SyncBuffersHook SyncNormHook YOLOXModeSwitchHook SetEpochInfoHook
    NumClassCheckHook CheckInvalidLossHook EmptyCacheHook IterTimerHook MemoryProfilerHook DistSamplerSeedHook
    TextLoggerHook TensorboardLoggerHook WandbLoggerHook MMDetWandbHook MlflowLoggerHook NeptuneLoggerHook OptimizerHook
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

# why something is not exact, if known
REASONS = {
    "SyncRandomSizeHook": "it draws the next epoch's image size and stores it in the dataset",
    "RFSearchHook": "it replaces convolutions during the search, which a resume does not restore",
    "Albu": "albumentations has its own random number generators",
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
    """The parts of a resolved mmdet config that would change a resumed run, one sentence each."""
    found = []
    for key, known in (("custom_hooks", HOOKS), ("optimizer_config", HOOKS), ("data.train", DATASETS | TRANSFORMS)):
        found += [_sentence(key, name) for name in _types(lookup.at(cfg, key)) if name not in known]
    found += [_sentence("model", name) for name in _types(cfg.get("model")) if name in MODELS]
    averages = [name for name in _types(cfg.get("custom_hooks")) if name in AVERAGES]
    if len(averages) > 1:
        found.append(f"custom_hooks: {' and '.join(averages)} store their averages in buffers with the same names")
    return list(dict.fromkeys(found))


def describe(cfg: dict[str, Any], device: str) -> str:
    """The line of the plan: whether a resume is exact, and what another number of ranks would change."""
    lost = elastic_problems(cfg)
    return _resumed(cfg, device) + (f"; another number of ranks would change it: {lost[0]}" if lost else "")


def _resumed(cfg: dict[str, Any], device: str) -> str:
    found = problems(cfg)
    if found:
        more = f" (and {len(found) - 1} more: {'; '.join(found[1:])})" if found[1:] else ""
        return f"no, because {found[0]}{more}"
    if device == "cuda":
        return "same samples, random draws and learning rates after a resume; sums on a GPU differ in the last bits"
    return "yes: a resumed run is bit-identical to an uninterrupted one"


def elastic_problems(cfg: dict[str, Any]) -> list[str]:
    """The parts of a model whose results depend on the number of processes, beyond the order of summation."""
    types = list(_types(cfg.get("model")))
    found = [f"{name} computes its statistics over the processes of one forward pass"
             for name in types if name in SYNCED_NORMS]
    found += [f"{name} averages its number of positives over the processes of one forward pass"
              for name in types if name in AVERAGING_HEADS]
    return list(dict.fromkeys(found))


def _sentence(key: str, name: str) -> str:
    return f"{key}: {name}: {REASONS.get(name, 'it may have state outside of the checkpoint')}"


def _types(value: Any) -> list[str]:
    """Every ``type`` in a config value, outer ones first."""
    return [block["type"] for block in lookup.nested(value) if isinstance(block.get("type"), str)]
