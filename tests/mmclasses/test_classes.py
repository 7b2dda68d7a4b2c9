"""The table of what classes accept, against the packages that are installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ecm_cluster.mmclasses import classes

ROOT = Path(classes.__file__).parents[2]


@pytest.mark.slow
def test_the_table_says_what_the_installed_classes_accept():
    made = subprocess.run([sys.executable, "-W", "ignore", "-m", "tools.class_table", "--json"], cwd=ROOT, check=True,
                          capture_output=True, text=True)
    installed = json.loads(made.stdout)
    release = classes.installed_release()
    assert sum(map(len, installed.values())) > 450
    differing = []
    for section, by_name in installed.items():
        for name, words in by_name.items():
            kinds = dict(word.partition(":")[::2] for word in words if word != classes.OPEN)
            known = classes.arguments_of(section, name, release)
            if known is None:
                differing.append(f"{section} {name} is not in the table")
                continue
            # releases of torch differ in what optimizers accept; the table has the newest
            names_differ = kinds.keys() - known.kinds if section == "optimizer" else kinds.keys() ^ known.kinds.keys()
            kinds_differ = {arg for arg, letters in kinds.items() if known.kinds.get(arg)
                            and (not letters or set(letters) - set(known.kinds[arg]))}
            if names_differ or kinds_differ or known.is_open != (classes.OPEN in words):
                differing.append(f"{section} {name}: {sorted(names_differ | kinds_differ)}")
    assert not differing, "run `python -m tools.class_table`, see its --help:\n" + "\n".join(differing)


def test_what_a_class_accepts_is_known_with_its_bases():
    known = classes.arguments_of("model", "Shared2FCBBoxHead")
    assert known is not None and not known.is_open
    assert set(known.kinds["fc_out_channels"]) >= {"i"}
    assert {"num_classes", "loss_cls", "norm_cfg"} <= known.kinds.keys()  # of its bases, behind **kwargs
    assert "num_shared_fcs" not in known.kinds  # it sets that one itself


def test_a_release_of_mmdet_accepts_what_it_has():
    assert "seg_suffix" in classes.arguments_of("dataset", "CocoDataset").kinds
    assert "seg_suffix" in classes.arguments_of("dataset", "CocoDataset", "2.28.2").kinds
    assert "seg_suffix" not in classes.arguments_of("dataset", "CocoDataset", "2.25.2").kinds
    assert classes.arguments_of("dataset", "Objects365V1Dataset", "2.25.2") is None


@pytest.mark.parametrize(("section", "name"), [("model", "MyOwnHead"), ("model", "mmcls.ConvNeXt"), ("hook", "ResNet")])
def test_what_the_table_does_not_hold_is_unknown(section, name):
    assert classes.arguments_of(section, name) is None


def test_a_scope_of_mmdet_itself_is_not_a_part_of_a_name():
    assert classes.arguments_of("model", "mmdet.ResNet") == classes.arguments_of(None, "ResNet")
