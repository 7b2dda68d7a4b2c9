"""Train, resume and score every config family that mmdet ships, at tiny size on the CPU, against stock mmdet.

Give families (folders of mmdet's configs) or single configs (family/name); none: all. Results are kept in the output
folder and added to those of former calls; the table is made of all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.shipped_configs", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--out", type=Path, default=Path("runs/shipped_configs"), help="folder for what is made on the way")
    parser.add_argument("--table", type=Path, help="write the table to this file, e.g. docs/shipped-configs.md")
    parser.add_argument("--first", action="store_true", help="the first config of each family only")
    args = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    from .families import chosen

    configs = chosen(args.families)
    if args.first:
        configs = list({config.split("/")[0]: config for config in reversed(configs)}.values())[::-1]
    import importlib.util

    if importlib.util.find_spec("panopticapi") is None:
        sys.path.append(str(Path(__file__).parent / "stand_ins"))
    import os

    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    from ecm_cluster.node import imports

    from . import product

    with product.quiet_environment():
        imports.framework()
        from . import trial

        results = args.out.absolute() / "results.json"
        for which in configs:
            row = trial.run(which, args.out.absolute())
            found = json.loads(results.read_text()) if results.exists() else {}
            found[which] = row
            results.write_text(json.dumps(found, indent=1))
            print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
