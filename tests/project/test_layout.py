"""The laws of the layout: every room has its floor, imports go down, and nothing has outgrown its job."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict

import pytest

if sys.version_info < (3, 10):
    pytest.skip("the source is the same everywhere; Pythons that can list their own modules read it",
                allow_module_level=True)

from source import ROOT, Module, holds, modules, names

# All rooms, from the ground up. A room imports from the floors below it alone, also lazily and for types.
FLOORS = [
    ("ecm_cluster.base", "mmdet_ext.data"),
    ("ecm_cluster.annotations", "ecm_cluster.console", "ecm_cluster.mmclasses", "ecm_cluster.mmconfig",
     "ecm_cluster.pickles", "ecm_cluster.synthetic", "mmdet_ext.loss", "mmdet_ext.runners"),
    ("ecm_cluster.scoring",),
    ("ecm_cluster.analysis", "ecm_cluster.freeze", "ecm_cluster.job", "ecm_cluster.pack", "mmdet_ext"),
    ("ecm_cluster.rundir", "ecm_cluster.staging.peers"),
    ("ecm_cluster.staging",),
    ("ecm_cluster.attempts", "ecm_cluster.datacheck"),
    ("ecm_cluster.keycheck", "ecm_cluster.slurm"),
    ("ecm_cluster.chain", "ecm_cluster.node"),
    ("ecm_cluster.backends", "ecm_cluster.node.gpu", "ecm_cluster.trackers"),
    ("ecm_cluster.node.supervise", "ecm_cluster.plan", "ecm_cluster.reporting"),
    ("ecm_cluster.checking", "ecm_cluster.diagnosis", "ecm_cluster.node.training", "ecm_cluster.interface",
     "ecm_cluster.notices", "ecm_cluster.watching"),
    ("ecm_cluster.diff", "ecm_cluster.node.mmdet_trainer", "ecm_cluster.report.drawing", "ecm_cluster.sweeps"),
    ("ecm_cluster.compare", "ecm_cluster.evaluate", "ecm_cluster.logs", "ecm_cluster.node.inference",
     "ecm_cluster.report"),
    ("ecm_cluster", "ecm_cluster.node.checks"),  # the verbs, and what a check runs on a node
]
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
MOST_FILES, MOST_LINES, MOST_LINES_OF_A_FUNCTION = 14, 250, 40


def room_of(name: str) -> str:
    return name if name in packages() else name.rpartition(".")[0]


def packages() -> set[str]:
    return {module.name for module in modules() if module.is_package}


def test_every_room_has_its_floor() -> None:
    assert sum(map(len, FLOORS)) == len(FLOOR), "a room is on two floors"
    inhabited = {room_of(module.name) for module in modules() if not module.is_package or module.text.strip()}
    holds([f"{room} is on no floor: give it one in FLOORS" for room in sorted(inhabited - FLOOR.keys())])
    holds([f"{room} is on a floor, and does not exist" for room in sorted(FLOOR.keys() - inhabited)])


def test_a_room_imports_from_the_floors_below_it() -> None:
    violations = []
    for module in modules():
        room = room_of(module.name)
        if module.is_package and room in ("ecm_cluster", "mmdet_ext"):
            continue  # importing anything below imports these first
        for i in module.imports:
            if i.name in names() and (below := room_of(i.name)) != room and FLOOR[below] >= FLOOR[room]:
                violations.append(f"{module.where}:{i.line} imports {i.name}, which is not below {room}")
    holds(violations)


def test_no_module_imports_itself_through_others() -> None:
    graph = {m.name: sorted({i.name for i in m.imports if i.name in names() and i.name != m.name})
             for m in modules()}
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "a cycle: " + " -> ".join((*trail[trail.index(name):], name))
        if name not in done:
            for following in graph[name]:
                walk(following, (*trail, name))
            done.add(name)

    for name in graph:
        walk(name, ())


def test_no_folder_has_outgrown_a_glance() -> None:
    folders = Counter(path.parent for package in ("ecm_cluster", "mmdet_ext", "configs", "jobs", "docs", "benchmarks",
                                                  "tools", "tests")
                      for path in (ROOT / package).rglob("*")
                      if path.is_file() and "__pycache__" not in path.parts)
    holds([f"{folder.relative_to(ROOT)} has {count} files; {MOST_FILES} is the limit"
           for folder, count in sorted(folders.items()) if count > MOST_FILES])


def lengths(module: Module) -> dict[str, int]:
    """Lines of each function, by its name; docstrings are documentation, and do not count."""
    found = {}
    for node in module.nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                lines -= (first.end_lineno or first.lineno) - first.lineno + 1
            found[f"{module.where}:{node.name}"] = lines
    return found


# what has one job all the same, and why
LONG_FILES = {
    "benchmarks/evaluation.py": "a measurement is read as one page: what is compared, how, and what is printed",
}
LONG_FUNCTIONS = {
    "benchmarks/training.py:gate": "one list of conditions for a fair comparison, each with its reason",
}


def test_no_file_has_outgrown_its_one_job() -> None:
    sizes = {m.where: len(m.text.splitlines()) for m in modules("ecm_cluster", "mmdet_ext", "tools", "benchmarks")}
    holds([f"{where} has {lines} lines; {MOST_LINES} is the limit: it has two jobs"
           for where, lines in sizes.items() if lines > MOST_LINES and where not in LONG_FILES])
    holds([f"{where} is short now: take it off LONG_FILES" for where in LONG_FILES
           if sizes.get(where, 0) <= MOST_LINES])


def test_no_function_has_outgrown_its_one_job() -> None:
    sizes = {name: lines for m in modules("ecm_cluster", "mmdet_ext", "tools", "benchmarks")
             for name, lines in lengths(m).items()}
    holds([f"{name} has {lines} lines; {MOST_LINES_OF_A_FUNCTION} is the limit" for name, lines in sizes.items()
           if lines > MOST_LINES_OF_A_FUNCTION and name not in LONG_FUNCTIONS])
    holds([f"{name} is short now: take it off LONG_FUNCTIONS" for name in LONG_FUNCTIONS
           if sizes.get(name, 0) <= MOST_LINES_OF_A_FUNCTION])


def test_a_class_name_means_one_thing() -> None:
    where: dict[str, list[str]] = defaultdict(list)
    for module in modules():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(f"{module.where}:{node.lineno}")
    holds([f"{name} is defined in {', '.join(places)}" for name, places in sorted(where.items()) if len(places) > 1])


def test_no_product_file_looks_like_a_test() -> None:
    holds([m.where for m in modules() if re.search(r"(^test_|_test$)", m.path.stem)])
