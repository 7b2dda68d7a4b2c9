"""Every process is named in one table, and a run's frozen code decides which module it has there."""

from __future__ import annotations

import ast
import importlib.util
import re

import pytest
from source import modules

from ecm_cluster.base import processes

# what a user types, in messages
VERB = re.compile(r"ecm_cluster\.[a-z]+")


@pytest.mark.parametrize("name", [*processes.MODULES.values(), *(task.partition(":")[0]
                                                                 for task in processes.TASKS.values())])
def test_every_module_of_the_table_is_there(name):
    assert importlib.util.find_spec(name) is not None


def test_a_task_is_pickled_by_name_under_the_names_that_frozen_code_of_every_version_has():
    for name, kind in (("train", "Train"), ("evaluate", "Evaluate")):
        task = processes.task(name, "/run", *(["evaluate"] if name == "evaluate" else []))
        assert (type(task).__module__, type(task).__name__) == ("ecm_cluster.node.task", kind)


@pytest.mark.parametrize("process", processes.EARLIER)
def test_the_frozen_code_of_an_earlier_version_has_its_own_module_for_a_process(tmp_path, process):
    now, earlier = processes.MODULES[process], f"ecm_cluster.{processes.EARLIER[process]}"
    assert processes.module(process) == processes.module(process, tmp_path / "not frozen yet") == now
    (tmp_path / earlier.replace(".", "/")).parent.mkdir(parents=True)
    (tmp_path / earlier.replace(".", "/")).with_suffix(".py").touch()
    assert processes.module(process, tmp_path) == earlier
    (tmp_path / now.replace(".", "/")).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / now.replace(".", "/")).with_suffix(".py").touch()
    assert processes.module(process, tmp_path) == now
    assert processes.runs(process, now) and processes.runs(process, earlier)
    assert not processes.runs(process, "ecm_cluster.") and not processes.runs(process, "")


def test_no_other_file_names_a_module_by_a_string(root):
    found = [f"{module.where}:{node.lineno} names {node.value}" for module in modules() for node in module.nodes
             if module.path.name != "processes.py" and isinstance(node, ast.Constant) and isinstance(node.value, str)
             and re.fullmatch(r"(ecm_cluster|mmdet_ext)(\.\w+)+", node.value)
             and not VERB.fullmatch(node.value) and (root / (node.value.replace(".", "/") + ".py")).exists()]
    assert not found, "\n".join(found)
