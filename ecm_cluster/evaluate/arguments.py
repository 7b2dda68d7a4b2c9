"""The command line of the verb."""

from __future__ import annotations

import argparse

from ..console import cli
from ..job import eval_settings
from ..job import job as jobs
from ..job.flags import add_flags, in_groups

DESCRIPTION = "Score checkpoints, optionally under a grid of test settings; what has been scored is not scored again."
EPILOG = """examples:
  python -m ecm_cluster.evaluate first --checkpoints all
  python -m ecm_cluster.evaluate first second --sweep jobs/eval_sweep.yaml --sort segm_APr
  python -m ecm_cluster.evaluate first --vary nms_iou=0.4,0.5,0.6 --vary flip=false,true --gpus 4
  python -m ecm_cluster.evaluate --config my_config.py model.pth --data-root /datasets/lvis_v1 --gpus 8
  python -m ecm_cluster.evaluate --config my_config.py --code my_modules model.pth

settings that can be varied, in a sweep file (a YAML mapping of names to lists) or by --vary:
""" + "\n".join(f"  {name:<13}{'scoring: ' if s.scoring else ''}{s.help} ({s.reader.expected})"
                for name, s in eval_settings.SETTINGS.items())
RESOURCES = [*in_groups(jobs.RESOURCES), "device"]


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.evaluate", description=DESCRIPTION, epilog=EPILOG)
    made.add_argument("run", nargs="+", metavar="RUN", help="run directories or names of runs; with --config: files "
                      "of checkpoints")
    made.add_argument("--checkpoints", default="last", metavar="WHICH",
                      help="last, all, best, or iterations such as 12000,24000 (default: last)")
    made.add_argument("--sweep", metavar="FILE", help="YAML: values to try of each setting; all combinations")
    made.add_argument("--vary", action="append", default=[], metavar="SETTING=V1,V2",
                      help="the same on the command line; may be repeated")
    made.add_argument("--fixed", action="store_true", help="Fixed AP, the same as --vary fixed=true (see below)")
    made.add_argument("--sort", metavar="METRIC", help="order of the table, and which checkpoint is the best, e.g. "
                      "segm_APr (default: mask AP, or box AP)")
    made.add_argument("--columns", metavar="METRICS", help="metrics in the table, e.g. AP,APr,segm_AP50")
    made.add_argument("--at-once", type=int, metavar="N", help="maximum concurrent elements of the array")
    made.add_argument("--config", help="score plain checkpoint files with this mmdet config")
    made.add_argument("--cluster", choices=("slurm", "local"), default="slurm",
                      help="where plain checkpoints are scored (default: slurm)")
    made.add_argument("--set", dest="options", action="append", default=[], metavar="KEY=VALUE",
                      help="mmdet option for plain checkpoints, as for submit; may be repeated")
    add_flags(made, [*RESOURCES, "data_root", "runs_dir", "code"])
    _add_output(made)
    return made


def _add_output(made: argparse.ArgumentParser) -> None:
    made.add_argument("--csv", metavar="FILE", help="write the table, every figure unrounded")
    made.add_argument("--results-json", metavar="FILE", help="write the stored detections of one checkpoint as a "
                      "results file of LVIS or COCO")
    made.add_argument("--analysis", action="store_true", help="show where the model goes wrong (kinds of errors, "
                      "confusions, calibration), from stored detections, without a GPU")
    made.add_argument("--json", action="store_true", help="print JSON instead of the table")
    made.add_argument("--wait", action="store_true", help="wait until everything asked for is scored")
    made.add_argument("--dry-run", action="store_true", help="print what would be scored, write nothing")
