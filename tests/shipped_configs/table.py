"""The results of all trials as a page of docs/: a row for each config, with the reason of each failure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .families import FAMILIES

COCO = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the first six of COCO's twelve metrics
COLUMNS = "| family | config | trains | as mmdet | resumes | scores as mmdet | notes |\n|---|---|---|---|---|---|---|"
SAME = 1e-9  # metrics of two scorers that differ by less are equal
NO_75 = "mmdet takes its IoU thresholds from np.arange, which misses 0.75, so its AP75 is undefined"
NEEDS_GPU = "mmdet's head creates its points on a GPU, regardless of the model's device"
# the reason for a failure that its message does not give
REASONS = {
    "cityscapes/mask_rcnn_r50_fpn_1x_cityscapes": NO_75,
    "cityscapes/faster_rcnn_r50_fpn_1x_cityscapes": NO_75,
    "reppoints/reppoints_moment_r50_fpn_1x_coco": NEEDS_GPU,
    "reppoints/bbox_r50_grid_fpn_gn-neck+head_1x_coco": NEEDS_GPU,
    "queryinst/queryinst_r50_fpn_1x_coco": "on a CPU mmdet cannot paste the mask of a box outside the image",
    "rfnext/rfnext_search_mask_rcnn_pvtv2-b0_fpn_1x_coco": "both score the initial dilations of the config, "
                                                           "as mmdet's test.py does; the ones found are in the "
                                                           "run's local_search_config files",
}

HEAD = """# mmdet's shipped configs

Written by `python -m tests.shipped_configs --table docs/reference/shipped-configs.md`, with {versions}.

Every config family that mmdet ships (the folders of its `configs/`, read as `mmdet::…`), represented by the configs
that have their own code path: {count} configs of {families} families. Deeper or wider backbones of the same kind,
longer schedules and multi-scale variants run the same code with other numbers. Excluded are {left}, which contain
parts of configs.

Each config runs through the product on one CPU: it is planned and frozen as by `submit`, trained by a rank's worker,
stopped in the middle by a SIGTERM in a second run and resumed, and its last checkpoint is scored by an evaluation's
worker. Stock mmdet trains the same config with `train_detector` from the same initial weights, with the same batches
and random draws, and scores the same checkpoint with `single_gpu_test` and `dataset.evaluate`. Like the product, it is
given the names that it needs from numpy before 1.24 (`np.int`).

- **trains**: number of iterations.
- **as mmdet**: the weights after the last iteration compared with stock mmdet's: `identical` to the last bit, or the
  largest difference.
- **resumes**: the stopped and resumed run compared with the uninterrupted one: `identical` to the last bit, in weights,
  optimizer, everything else in the checkpoint, and every line of the log.
- **scores as mmdet**: the metrics, unrounded, compared with stock mmdet's; in brackets how many were compared, and how
  many of those are neither zero nor undefined.

The configs are reduced in size, but complete: images of 128 pixels (drawn shapes, in the format, at the paths and with
the classes that the config names), at most two images in a batch, fewer boxes sampled and kept, a score threshold of
1e-4, two epochs of two iterations (or four iterations), and no fp16, whose casts need a GPU. `pretrained`, `init_cfg`,
`load_from` and teachers' checkpoints are removed, since this test has no network: all training is from scratch. In the
test images each object, and squares of some sizes, are annotated as every class; otherwise a barely trained model would
score zero under any scorer. Further changes are listed in the row.

"""


def page(rows: Mapping[str, Mapping[str, Any]], versions: str) -> str:
    """The page, its rows in the order of the families; configs without a result have none."""
    known = [f"{family}/{name}" for family, names in FAMILIES.items() for name in names]
    there = [rows[config] for config in known if config in rows]
    lines = [HEAD.format(versions=versions, count=len(known), families=len(FAMILIES), left="`_base_` and `common`")]
    lines.append(totals(there))
    lines.append(COLUMNS)
    for config in known:
        family, name = config.split("/", 1)
        found = cells_of(rows[config]) if config in rows else ("–", "–", "–", "–", "not tried yet")
        cells = [family, f"`{name}`", *found]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def totals(rows: list[Mapping[str, Any]]) -> str:
    """How many do what, in one line."""
    cells = [cells_of(row) for row in rows]
    same = [sum(cell[at].startswith("identical") for cell in cells) for at in range(4)]
    return (f"Of {len(rows)} configs {sum(c[0] != 'no' for c in cells)} train, {same[1]} train exactly as stock mmdet, "
            f"{same[2]} resume exactly, and {same[3]} are scored exactly as by stock mmdet.\n")


def cells_of(row: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """trains, as mmdet, resumes, scores as mmdet, notes."""
    notes = list(dict.fromkeys(row["prepared"])) if isinstance(row.get("prepared"), list) else []
    *cells, said = _cells_of(row, notes)
    return (*cells, "; ".join(filter(None, (said, REASONS.get(row["config"])))))


def _cells_of(row: Mapping[str, Any], notes: list[str]) -> tuple[str, str, str, str, str]:
    failed = next((row[key]["failed"] for key in ("prepared", "submits", "trains") if _failed(row.get(key))), None)
    if failed:
        stock = row.get("as_stock")
        notes.append(_beside(failed, stock) if _failed(stock) else _brief(failed))
        notes += ["stock mmdet trains it"] if stock and not _failed(stock) else []
        return "no", "–", "–", "–", "; ".join(notes)
    return (str(row["trains"]), _as_stock(row["as_stock"], notes), _resumes(row["resumes"], notes),
            _scores(row["scores"], row["mmdet_scores"], notes), "; ".join(notes))


def _failed(value: Any) -> bool:
    return isinstance(value, dict) and "failed" in value


def _brief(text: str) -> str:
    """One line, without the folders of this machine."""
    text = " ".join(text.replace("Failed: ", "").split())
    return re.sub(r"(?<![\w:/.])/(?:[\w.+-]+/)+", "", text)[:240]


def _beside(ours: str, theirs: Mapping[str, Any]) -> str:
    """Why ours does not go, and whether stock mmdet does not for the same reason."""
    alike = theirs["failed"].split(": ", 1)[-1] in ours
    return f"{_brief(ours)}; stock mmdet " + ("fails in the same way" if alike else f"says: {_brief(theirs['failed'])}")


def _as_stock(found: Mapping[str, Any], notes: list[str]) -> str:
    if _failed(found):
        notes.append(f"stock mmdet: {_brief(found['failed'])}")
        return "–"
    if found["not_finite"]:
        notes.append(f"{found['not_finite']} weights are not finite in either")
    if found["only_one_has"]:
        notes.append(f"only one has {', '.join(found['only_one_has'])}")
        return "differs"
    return "identical" if not found["unlike"] else f"within {found['apart']:.1e} ({found['unlike']} of {found['of']})"


def _resumes(found: Mapping[str, Any], notes: list[str]) -> str:
    if _failed(found):
        notes.append(f"resuming: {_brief(found['failed'])}")
        return "no"
    if found["unlike"] or not found["same_log"]:
        notes.append(f"after resuming differ: {', '.join(found['unlike'] or ['log lines'])}")
        return "differs"
    return "identical"


def _scores(ours: Any, theirs: Any, notes: list[str]) -> str:
    if _failed(ours):
        why = _beside(ours["failed"], theirs) if _failed(theirs) else _brief(ours["failed"])
        notes.append(f"scoring: {why}")
        return "no"
    if _failed(theirs):
        notes.append(f"stock mmdet's scoring: {_brief(theirs['failed'])}")
        return "–"
    pairs = compared(ours["figures"], theirs)
    if not pairs and not ours["detections"]:
        notes.append("no detections, for which mmdet gives no metrics")
        return "–"
    if not pairs:
        notes.append("no figures of the same name")
        return "–"
    unlike = {name: pair for name, pair in pairs.items() if abs(pair[0] - pair[1]) > SAME}
    if unlike:
        name, (one, other) = next(iter(unlike.items()))
        notes.append(f"{len(unlike)} of {len(pairs)} metrics differ, the first is {name}: {one:.6g}, mmdet {other:.6g}")
        return "differs"
    return f"identical ({len(pairs)}, {sum(a not in (0.0, -1.0) for a, _ in pairs.values())} not zero)"


def compared(figures: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Our figures and mmdet's by name, where both have one; -1 where undefined."""
    found = {}
    for kind, ours in figures.items():
        stats = theirs["stats"].get(kind, {})
        if isinstance(stats, list):
            stats = dict(zip([*COCO, "AR@100", "AR@300", "AR@1000", "ARs@1000", "ARm@1000", "ARl@1000"], stats))
        if not stats:  # mmdet's own means: mAP of VOC, OpenImages and WIDER Face, PQ
            stats = theirs["evaluate"]
        for name in ours.keys() & stats.keys():
            found[f"{kind} {name}"] = tuple(-1.0 if v is None else float(v) for v in (ours[name], stats[name]))
    return dict(sorted(found.items()))
