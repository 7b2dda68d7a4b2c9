"""Stand-ins: what a training never uses is not imported, and what is used is the real thing."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import ROOT

from ecm_cluster.node.mmdet_trainer import imports
from ecm_cluster.node.mmdet_trainer.imports import Package

FILES = {
    "__init__.py": "from . import light, inner\nfrom .inner import twice\nloaded = True\n",
    "inner.py": "from . import light\nfrom .. import standins_log\nstandins_log.names.append(__name__)\n"
                "def twice(x):\n    return 2 * x\n",
    "light.py": "setting = 1\n",
    "other.py": "from . import twice\nfour = twice(2)\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Stand-ins for a package that notes when one of its modules is executed."""
    (tmp_path / "top" / "heavy").mkdir(parents=True)
    (tmp_path / "top/__init__.py").write_text("")
    (tmp_path / "top/standins_log.py").write_text("names = []\n")
    for name, text in FILES.items():
        (tmp_path / "top/heavy" / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Package("top.heavy", {"": {"answer": lambda: "nothing"}, "inner": {"twice": None}}, real=("light",))
    monkeypatch.setattr(imports, "PACKAGES", (made,))
    finder = imports._Submodules()
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    made.put()
    yield made
    for name in [name for name in sys.modules if name.split(".")[0] == "top"]:
        del sys.modules[name]


def executed() -> list[str]:
    return list(importlib.import_module("top.standins_log").names)


def test_a_name_that_is_known_is_taken_without_importing_and_calls_the_real_one(package):
    import top.heavy
    from top.heavy.inner import twice
    assert top.heavy.answer() == "nothing" and executed() == []
    assert twice(4) == 8 and executed() == ["top.heavy.inner"]


def test_anything_else_is_the_real_packages_and_leaves_no_stand_in(package):
    import top.heavy

    held = top.heavy
    assert held.loaded and executed() == ["top.heavy.inner"]
    for name in ("top.heavy", "top.heavy.inner"):
        assert not isinstance(sys.modules[name], imports.ImportStandIn)
    assert not isinstance(sys.modules["top"].heavy, imports.ImportStandIn)
    held.loaded = 3
    assert sys.modules["top.heavy"].loaded == 3 and held.inner is sys.modules["top.heavy.inner"]
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        _ = held.absent


def test_the_package_is_imported_before_its_modules_and_each_once(package):
    from top.heavy.other import four

    assert four == 4 and executed() == ["top.heavy.inner"]
    assert sys.modules["top.heavy"].inner.__spec__.name == "top.heavy.inner"


def test_what_costs_little_is_imported_alone_and_stays_the_same_module(package):
    import top.heavy

    light = top.heavy.light
    light.setting = 5
    assert executed() == []
    assert top.heavy.loaded and sys.modules["top.heavy"].light is light and light.setting == 5


def test_looking_through_all_modules_imports_nothing(package):
    assert inspect.getmodule(test_looking_through_all_modules_imports_nothing)
    assert not hasattr(sys.modules["top.heavy.inner"], "__path__")
    assert executed() == []


def test_threads_that_ask_at_once_all_get_the_real_one(package):

    held, found = sys.modules["top.heavy.inner"], []
    barrier = threading.Barrier(4)

    def ask() -> None:
        barrier.wait()
        found.append(held.twice(2) + held.light.setting)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [5] * 4 and executed() == ["top.heavy.inner"]


def test_what_is_imported_already_or_absent_has_no_stand_in(package):
    package.load()
    package.put()
    assert not package.standing
    absent = Package("top.absent", {"": {}})
    absent.put()
    assert not absent.standing and "top.absent" not in sys.modules


def test_once_removed_an_import_is_an_ordinary_one(package):
    held = sys.modules["top.heavy"]
    package.remove()
    import top.heavy

    assert not isinstance(top.heavy, imports.ImportStandIn) and held.loaded


def python(code: str) -> str:
    pytest.importorskip("mmdet")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], cwd=ROOT, text=True,
                          capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return "\n".join(line for line in done.stdout.splitlines() if not line.startswith("[Gloo]"))


TRAIN = """
    import sys
    from ecm_cluster.node.mmdet_trainer import imports
    {framework}
    import torch, torch.distributed as dist
    from ecm_cluster.node.training import step_hook as boundary
    from ecm_cluster.node.mmdet_trainer import building
    from torch.nn.parallel import DistributedDataParallel

    def train():
        torch.manual_seed(0)
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        model = DistributedDataParallel(torch.nn.Linear(3, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(4, 3)).square().sum().backward()
            optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        dist.destroy_process_group()
        return [p.tolist() for p in model.parameters()]

    print(train())
"""
UNUSED = ("sympy", "scipy", "matplotlib", "torch._dynamo.eval_frame")


@pytest.mark.slow
def test_a_training_imports_none_of_it_and_learns_the_same():
    real = python(TRAIN.format(framework="import mmdet.models"))
    lean = python(TRAIN.format(framework="imports.framework()") + f"""
    assert not [name for name in {UNUSED!r} if name in sys.modules]
    assert "torch._dynamo" in sys.modules  # a stand-in
""")
    assert lean == real


@pytest.mark.slow
def test_using_them_imports_the_real_ones():
    first, second = python(TRAIN.format(framework="imports.framework()") + """
    import numpy as np
    from mmdet.core.bbox.assigners import hungarian_assigner
    from mmdet.core.visualization import image
    import torchvision

    rows, columns = hungarian_assigner.linear_sum_assignment(np.array([[4, 1], [2, 3]]))
    assert columns.tolist() == [1, 0]
    assert image.Polygon([[0, 0], [1, 0], [1, 1]]).get_xy().shape == (4, 2)
    import matplotlib.patches, matplotlib.pyplot
    assert isinstance(image.Polygon([[0, 0], [1, 1]]), matplotlib.patches.Polygon)
    assert image.plt.figure is matplotlib.pyplot.figure
    rois = torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), torch.tensor([[0., 0., 0., 4., 4.]]), 2)
    assert torch.equal(rois, torch.ones(1, 1, 2, 2))

    seen = []
    def backend(graph, inputs):
        seen.append(len(list(graph.graph.nodes)))
        return graph.forward
    compiled = torch.compile(lambda x: x.sin() + 1, backend=backend)
    assert torch.equal(compiled(torch.ones(2)), torch.ones(2).sin() + 1) and seen
    assert not isinstance(sys.modules["torch._dynamo"], imports.ImportStandIn) and "sympy" in sys.modules
    assert torch._dynamo.graph_break is not imports._graph_break
    print(train())
""").splitlines()
    assert first == second


@pytest.mark.slow
def test_an_import_that_fails_among_stand_ins_is_done_again_without_them(tmp_path):
    (tmp_path / "needs_a_class.py").write_text(
        "from matplotlib.patches import Polygon\nclass Mine(Polygon):\n    pass\n")
    python(f"""
    import sys
    sys.path.append({str(tmp_path)!r})
    from ecm_cluster.node.mmdet_trainer import imports
    imports.FRAMEWORK += ("needs_a_class",)
    imports.framework()
    assert issubclass(sys.modules["needs_a_class"].Mine, sys.modules["matplotlib.patches"].Polygon)
    """)


@pytest.mark.slow
@pytest.mark.parametrize(("switch", "stands"), [("", True), ("1", False)])
def test_stand_ins_can_be_left_out(monkeypatch, switch, stands):
    monkeypatch.setenv("ECM_CLUSTER_PLAIN_IMPORTS", switch)
    code = ("import sys; from ecm_cluster.node.mmdet_trainer import imports; imports.framework(); import mmdet.models\n"
            "print(isinstance(sys.modules.get('torch._dynamo'), imports.ImportStandIn))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(stands)
