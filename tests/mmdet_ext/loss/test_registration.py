"""A fork of mmdet that has losses of our names: a config that imports ours gets ours, and a warning."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
from mmcv.utils import Registry
from small import ROOT

from mmdet_ext.loss.registration import takes_its_name

# what the original's forks do when mmdet is imported
FORK = """
import sys, types, warnings
from torch import nn
from mmdet.models.builder import LOSSES, build_loss
fork = types.ModuleType("mmdet.models.losses.ecm_loss")
exec("class EffectiveClassMarginLoss(nn.Module): pass\\nclass EffectiveClassMarginLossNick(nn.Module): pass",
     {"nn": nn, "__name__": fork.__name__}, vars(fork))
for name in ("EffectiveClassMarginLoss", "EffectiveClassMarginLossNick"):
    LOSSES.register_module(module=getattr(fork, name))
"""
BUILT = "print(type(build_loss(dict(type='EffectiveClassMarginLossNick', **{}))).__module__)"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", FORK + code], cwd=ROOT, capture_output=True, text=True, check=True)


@pytest.mark.slow
def test_where_a_fork_has_our_names_ours_is_built_and_the_warning_names_the_other():
    done = run("import mmdet_ext.register\n" + BUILT.format("{'class_counts': [3, 2]}"))
    assert done.stdout.splitlines()[-1] == "mmdet_ext.loss.ecm_loss"
    assert ("EffectiveClassMarginLossNick: mmdet_ext.loss.ecm_loss replaces mmdet.models.losses.ecm_loss; to use the "
            "latter, remove mmdet_ext.register from custom_imports") in done.stderr


@pytest.mark.slow
def test_a_config_that_does_not_import_ours_keeps_the_forks():
    done = run("from ecm_cluster.node.mmdet_trainer import building\n"
               "from ecm_cluster.node import staged_data as staging\n"
               "import mmdet_ext.data.datasets, mmdet_ext.data.balanced\n"
               + BUILT.format("{}"))
    assert done.stdout.splitlines()[-1] == "mmdet.models.losses.ecm_loss" and "is used" not in done.stderr


def test_a_free_name_and_a_module_that_is_imported_again_need_no_warning():
    registry = Registry("thing")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert registry.get("Thing") is not takes_its_name(registry)(type("Thing", (), {}))
    with pytest.warns(UserWarning, match="Thing: elsewhere replaces .*test_registration"):
        other = takes_its_name(registry)(type("Thing", (), {"__module__": "elsewhere"}))
    assert registry.get("Thing") is other
