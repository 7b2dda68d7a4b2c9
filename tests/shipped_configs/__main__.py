"""Train, resume and score every config family that mmdet ships, at tiny size on the CPU, against stock mmdet.

Give families (folders of mmdet's configs) or single configs (family/name); none: all. Results are kept in the output
folder and added to those of earlier calls; the table is made of all of them. What some configs need beyond mmdet
(mmcls==0.25.0 timm==0.6.13 albumentations==1.3.1 instaboostfast wandb) is used where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
USED = ("mmdet", "mmcv-full", "torch", "mmcls", "timm", "albumentations", "instaboostfast", "wandb")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.shipped_configs", description=__doc__)
    made.add_argument("families", nargs="*", metavar="FAMILY")
    made.add_argument("--out", type=Path, default=Path("runs/shipped_configs"), help="folder for results and logs")
    made.add_argument("--table", type=Path, help="write the table there, e.g. to docs/reference/shipped-configs.md")
    made.add_argument("--first", action="store_true", help="the first config of each family only")
    made.add_argument("--missing", action="store_true", help="leave out configs that the output folder has results of")
    made.add_argument("--seconds", type=float, default=float("inf"), help="begin no further config after so long")
    made.add_argument("--keep", action="store_true", help="leave the data and the runs in the output folder")
    made.add_argument("--no-trials", action="store_true", help="the table only, of what is there")
    return made


def main() -> int:
    args = parser().parse_args()
    sys.path.insert(0, str(HERE.parent))
    from .families import chosen

    configs = chosen(args.families)
    if args.first:
        configs = list({config.split("/")[0]: config for config in reversed(configs)}.values())[::-1]
    results = args.out.absolute() / "results.json"
    if not args.no_trials:
        try_all(configs, results, args)
    if args.table:
        from . import table

        args.table.write_text(table.page(json.loads(results.read_text()), versions()))
    return 0


def try_all(configs: list[str], results: Path, args: argparse.Namespace) -> None:
    """Try each config, in processes forked from this one, and add what came of it to the results."""
    if importlib.util.find_spec("panopticapi") is None:
        sys.path.append(str(HERE / "stand_ins"))
    os.environ["WANDB_MODE"] = "offline"
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # read when torch is imported
    from ecm_cluster.node.mmdet_trainer import imports

    from . import product

    began = time.monotonic()
    with product.quiet_environment():
        imports.framework()
        from . import table, trial

        for which in configs:
            found = json.loads(results.read_text()) if results.exists() else {}
            if args.missing and which in found:
                continue
            if time.monotonic() - began > args.seconds:
                break
            row = trial.run(which, results.parent, args.keep)
            found = json.loads(results.read_text()) if results.exists() else {}
            found[which] = row
            results.write_text(json.dumps(found, indent=1))
            print(which, f"{row['seconds']:.0f} s", *table.cells_of(row), sep=" | ", flush=True)


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in USED:
        if importlib.util.find_spec(name.partition("-")[0]) is not None:
            found.append(f"{name} {metadata.version(name)}")
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(main())
