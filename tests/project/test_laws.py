"""The laws of the code base, held over the source tree itself: a new module is under them at once.

A test that names an exception says why, and fails when the exception is no longer needed.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info < (3, 10):
    pytest.skip("the source is the same everywhere; Pythons that can list their own modules read it",
                allow_module_level=True)

from source import ROOT, Module, holds, import_names, is_in, modules, setup_cfg, third_party, verbs

HEAVY = {"torch", "torchvision", "mmcv", "mmdet"}
# rooms of ecm_cluster that run on compute nodes, or on data; everything else answers on a login node
HEAVY_ROOMS = ("ecm_cluster.node", "ecm_cluster.pack", "ecm_cluster.staging", "ecm_cluster.scoring",
               "ecm_cluster.analysis", "ecm_cluster.synthetic")


# -- law 1: what learns does not depend on clusters, nor the login node on torch


def test_what_is_registered_into_mmdet_does_not_depend_on_clusters() -> None:
    holds([f"{m.where}:{i.line} imports {i.name}"
           for m in modules("mmdet_ext") for i in m.imports if is_in(i.name, "ecm_cluster")])


def test_every_module_that_registers_something_into_mmdet_is_imported_by_register() -> None:
    loaded = {i.name for m in modules("mmdet_ext") if m.name == "mmdet_ext.register" for i in m.imports}
    decorator = re.compile(r"^@(\w+\.register_module|takes_its_name)\(", re.M)
    registering = {m for m in modules("mmdet_ext") if decorator.search(m.text)}
    holds([f"{m.where} registers something and mmdet_ext/register.py does not import it"
           for m in registering if m.name not in loaded | {"mmdet_ext.register"}])


def test_only_the_rooms_that_run_on_nodes_import_torch_or_mmdet() -> None:
    holds([f"{m.where}:{i.line} imports {i.name}" for m in modules("ecm_cluster") for i in m.imports
           if i.name.split(".")[0] in HEAVY and not is_in(m.name, *HEAVY_ROOMS)])


# mmdet's trainer with the check that runs its parts, inference, the data of both, and the backend of mmcv that reads
# packs; everything else that a node runs works for any framework
MMDET_ROOMS = ("ecm_cluster.node.mmdet_trainer", "ecm_cluster.node.checks", "ecm_cluster.node.inference",
               "ecm_cluster.node.staged_data", "ecm_cluster.staging.mmcv_backend")


def test_mmcv_and_mmdet_are_imported_by_the_rooms_of_their_trainer_alone() -> None:
    importing = {(m.name, f"{m.where}:{i.line} imports {i.name}") for m in modules("ecm_cluster") for i in m.imports
                 if i.name.split(".")[0] in ("mmcv", "mmdet")}
    holds([what for name, what in sorted(importing) if not is_in(name, *MMDET_ROOMS)])
    holds([f"{room} imports neither: take it off MMDET_ROOMS" for room in MMDET_ROOMS
           if not any(is_in(name, room) for name, _ in importing)])


def test_outside_those_rooms_only_the_base_install_is_imported_before_it_is_needed() -> None:
    base = import_names(setup_cfg()["options"]["install_requires"])
    holds([f"{m.where}:{i.line} imports {i.name} at its top, which a login node need not have"
           for m in modules("ecm_cluster") for i in m.imports
           if third_party(i.name) and not i.lazy and not is_in(m.name, *HEAVY_ROOMS)
           and i.name.split(".")[0] not in base])


# torch pins the one it needs and brings it along, in its CUDA builds; without it the loss falls back
BROUGHT_BY_TORCH = {("mmdet_ext.loss.ecm_kernels", "triton")}


def test_every_import_is_declared_in_setup_cfg() -> None:
    options = setup_cfg()
    extras = [text for name, text in options["options.extras_require"].items() if name != "test"]
    declared = import_names(options["options"]["install_requires"], *extras)
    undeclared = {(m.name, i.name.split(".")[0]): f"{m.where}:{i.line}" for m in modules() for i in m.imports
                  if third_party(i.name) and i.name.split(".")[0] not in declared}
    holds([f"{where} imports {name}, which neither install_requires nor an extra names"
           for (module, name), where in undeclared.items() if (module, name) not in BROUGHT_BY_TORCH])
    holds([f"{key} is no longer undeclared: take it off BROUGHT_BY_TORCH"
           for key in BROUGHT_BY_TORCH - undeclared.keys()])


# as in a base install: the import machinery finds the login node's packages and nothing heavier
BLOCKED = """
import importlib, io, contextlib, sys, time

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} does not exist on a login node")

sys.meta_path.insert(0, Blocker())
for name in {verbs!r}:
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            importlib.import_module(name).main(["--help"])
    except SystemExit as end:
        if not end.code and out.getvalue().startswith("usage:"):
            continue
        print(f"{{name}} --help ended with {{end.code!r}}: {{out.getvalue()[:80]!r}}")
    except ImportError as error:
        print(f"{{name}} --help: {{error}}")
    else:
        print(f"{{name}} --help returned instead of exiting")
"""


def test_the_help_of_every_verb_works_without_torch_mmdet_and_numpy() -> None:
    options = setup_cfg()
    base = import_names(options["options"]["install_requires"])
    extras = options["options.extras_require"]
    blocked = import_names(*(extras[name] for name in extras if name != "test")) | HEAVY | {"numpy"}
    code = BLOCKED.format(blocked=blocked - base, verbs=[verb.name for verb in verbs()])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0), done.stdout + done.stderr


def test_the_command_lists_every_verb() -> None:
    from ecm_cluster.__main__ import VERBS

    assert set(VERBS) == {verb.name.split(".")[1] for verb in verbs()}


def test_every_verb_can_be_run_as_a_module() -> None:
    assert verbs()
    holds([f"{verb.where} does not end with: if __name__ == '__main__': raise SystemExit(cli.run(main))"
           for verb in verbs() if not ends_with_run(verb)])


def ends_with_run(verb: Module) -> bool:
    last = verb.tree.body[-1]
    return isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'" \
        and "run(main)" in ast.unparse(last)


# -- law 2: only run_folder.py spells the name of a file inside a run directory


def path_parts(module: Module) -> Iterator[tuple[int, str, str]]:
    """(line, first literal text, last literal text) of each component in ``a / component`` or a path call."""
    for node in module.nodes:
        parts: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.right]
        elif isinstance(node, ast.Call) and called(node) in PATH_CALLS:
            parts = list(node.args)
        for part in parts:
            pieces = part.values if isinstance(part, ast.JoinedStr) else [part]
            texts = [p.value for p in (pieces[0], pieces[-1])
                     if isinstance(p, ast.Constant) and isinstance(p.value, str)]
            if texts:
                first = texts[0] if isinstance(pieces[0], ast.Constant) else ""
                last = texts[-1] if isinstance(pieces[-1], ast.Constant) else ""
                yield node.lineno, first, last


PATH_CALLS = {"joinpath", "join", "glob", "rglob", "with_name", "Path", "open"}


def called(node: ast.Call) -> str:
    """The last name in what is called: ``run`` for ``subprocess.run(…)``."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


# a word that names something else too, in the modules given
NOT_OF_A_RUN: dict[tuple[str, str], str] = {}


# a run, and what it has in common with an evaluation
SPELLERS = ("ecm_cluster.rundir.paths", "ecm_cluster.rundir.work")


def names_in_a_run() -> set[str]:
    """Names that run_folder.py gives to files and folders: ``run.json``, ``checkpoints``, ``.heartbeat.json``, …"""
    spelled = {text for m in modules("ecm_cluster") if m.name in SPELLERS for _, *texts in path_parts(m)
               for text in texts}
    return {name for name in spelled if re.search(r"[a-z]{3}", name) and name not in (".json", "*.json")}


def test_only_run_folder_py_spells_the_name_of_a_file_inside_a_run() -> None:
    spelled = names_in_a_run()
    assert {"run.json", "checkpoints", "ledger", "attempts"} <= spelled
    violations = []
    for module in modules("ecm_cluster"):
        for line, *texts in path_parts(module):
            for part in {part for text in texts for part in text.split("/")} & spelled:
                if module.name not in SPELLERS and (module.name, part) not in NOT_OF_A_RUN:
                    violations.append(f"{module.where}:{line} spells {part!r}; ask Run for the path")
    holds(violations)


RECORDS = re.compile(r"\bspec(\[|\.get\()|\boverrides\(\)(\[|\.get\()")


def test_only_spec_py_looks_into_the_records_of_a_run_by_key() -> None:
    holds([f"{m.where}:{number} looks up {line.strip()}" for m in modules("ecm_cluster")
           for number, line in enumerate(m.text.splitlines(), 1)
           if m.name != "ecm_cluster.rundir.spec" and RECORDS.search(line)])


# -- law 3: one file talks to Slurm, one reads the rank


SLURM_COMMANDS = {"sbatch", "srun", "salloc", "squeue", "sacct", "sacctmgr", "scontrol", "scancel", "sinfo",
                  "sprio", "sshare", "sstat", "sbcast"}
RANK_VARIABLES = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR",
                  "MASTER_PORT", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS",
                  "SLURM_NPROCS", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SUBMITIT_LOCAL_GLOBALID",
                  "SUBMITIT_LOCAL_LOCALID", "SUBMITIT_LOCAL_NTASKS"}


def commands(module: Module) -> Iterator[tuple[int, str]]:
    """Words that begin a list or are an argument of a call, where a command to run would stand."""
    for node in module.nodes:
        starts: list[ast.expr] = []
        if isinstance(node, (ast.List, ast.Tuple)):
            starts = node.elts[:1]
        elif isinstance(node, ast.Call):
            starts = node.args[:1]
        for start in starts:
            if isinstance(start, ast.Constant) and isinstance(start.value, str) and start.value.strip():
                yield node.lineno, start.value.split()[0]


# the others through the first
TALK_TO_SLURM = ("ecm_cluster.slurm.commands", "ecm_cluster.slurm.launcher", "ecm_cluster.slurm.queue",
                 "ecm_cluster.slurm.site", "ecm_cluster.backends.short_job", "ecm_cluster.diagnosis.slurm",
                 "ecm_cluster.diagnosis.nodes")


def test_only_modules_that_ask_through_commands_py_name_a_slurm_command() -> None:
    found = {(m.name, m.where, line, word) for m in modules() for line, word in commands(m)
             if word in SLURM_COMMANDS}
    assert {name for name, *_ in found} >= set(TALK_TO_SLURM)
    holds([f"{where}:{line} runs {word}" for name, where, line, word in sorted(found) if name not in TALK_TO_SLURM])


# what is on record of an attempt or a start, which may be on another machine, and what the environment says
COMPARES_CLUSTERS = ("ecm_cluster.backends.", "ecm_cluster.node.world", "ecm_cluster.node.supervise.postmortem",
                     "ecm_cluster.attempts.endings")


def test_only_backends_tell_slurm_and_one_machine_apart() -> None:
    found = [(m.name, f"{m.where}:{node.lineno} compares with {part.value!r}; ask the run's backend")
             for m in modules("ecm_cluster") for node in m.nodes if isinstance(node, ast.Compare)
             for part in (node.left, *node.comparators)
             if isinstance(part, ast.Constant) and part.value in ("slurm", "local")]
    holds([what for name, what in found if not name.startswith(COMPARES_CLUSTERS)])
    holds([f"{name} compares no more: take it off COMPARES_CLUSTERS" for name in COMPARES_CLUSTERS[1:]
           if name not in {module for module, _ in found}])


def test_only_the_launcher_imports_submitit() -> None:
    found = {(m.name, f"{m.where}:{i.line}") for m in modules() for i in m.imports
             if is_in(i.name, "submitit")}
    assert any(name == "ecm_cluster.slurm.launcher" for name, _ in found)
    holds([where for name, where in sorted(found) if name != "ecm_cluster.slurm.launcher"])


def looked_up(module: Module) -> Iterator[tuple[int, str]]:
    """Keys that are looked up: ``environ["RANK"]``, ``environ.get("RANK")``, ``"RANK" in environ``."""
    for node in module.nodes:
        keys: list[ast.expr] = []
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            keys = [node.slice]
        elif isinstance(node, ast.Call):  # any function: it may be one that reads the environment
            keys = list(node.args)
        elif isinstance(node, ast.Compare):
            keys = [node.left]
        for key in keys:
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield node.lineno, key.value


def test_only_world_py_reads_rank_variables() -> None:
    found = {(m.name, f"{m.where}:{line} reads {key}") for m in modules() for line, key in looked_up(m)
             if key in RANK_VARIABLES}
    assert any(name == "ecm_cluster.node.world" for name, _ in found)
    holds([what for name, what in sorted(found) if name != "ecm_cluster.node.world"])


COLLECTIVES = re.compile(r"(all_|reduce|broadcast|gather|scatter|monitored_barrier|barrier|send|recv)")


def test_every_collective_of_the_launcher_names_its_group() -> None:
    # on GPUs the default group serves CUDA tensors alone, and belongs to the gradients
    found = [(m.where, node) for m in modules() for node in m.nodes if isinstance(node, ast.Call)
             and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in ("dist", "torch.distributed")
             and COLLECTIVES.match(node.func.attr)]
    assert found
    holds([f"{where}:{node.lineno} {ast.unparse(node)} goes over the default group" for where, node in found
           if not any(k.arg == "group" for k in node.keywords)
           and not ("barrier" in ast.unparse(node.func) and node.args)])


# -- law 4: what must survive is written through files.py


WRITERS = {"write_text", "write_bytes", "rename", "renames", "save", "savez", "savez_compressed", "tofile",
           "copyfile", "copyfileobj", "copy2", "copytree", "move", "link", "symlink_to", "hardlink_to"}
# (module, call) -> why it need not survive, or survives otherwise
WRITTEN_OTHERWISE = {
    ("ecm_cluster.base.faults", "rename"): "removes a test's order; no file of a run",
    ("ecm_cluster.rundir.ledger", "open"): "appends a line with fsync; a reader skips a torn one",
    ("ecm_cluster.console.cli", "open"): "a pipe or a device, which cannot be replaced",
    ("ecm_cluster.rundir.checkpoints", "replace"): "moves a broken checkpoint away; done again if it was lost",
    ("ecm_cluster.notices.send", "open"): "appends a line to a log",
    ("ecm_cluster.archive", "open"): "a tar file, on the handle of files.replacing",
    ("ecm_cluster.backends.driver", "open"): "a log, appended to by the process that is started",
    ("ecm_cluster.node.supervise.supervisor", "open"): "a log, appended to by the process that is started",
    ("ecm_cluster.node.companion", "open"): "a log, appended to by the process that is started",
    ("ecm_cluster.rundir.training_log", "open"): "appends a line; a reader skips a torn one, as in mmcv's log",
    ("ecm_cluster.trackers.follow", "write_text"): "a setting of the process in /proc",
    ("ecm_cluster.trackers.tensorboard", "replace"): "written again from the log by the next process",
    ("ecm_cluster.node.supervise.afterwards", "open"): "a log, appended to by the process that is started",
    ("ecm_cluster.freeze.snapshot", "open"): "a file of a folder that is renamed as a whole, after an fsync of each",
    ("ecm_cluster.freeze.snapshot", "rename"): "a folder is renamed as a whole, after an fsync of each file",
    ("ecm_cluster.pack.columns", "rename"): "a folder is renamed as a whole, after an fsync of each file",
    ("ecm_cluster.pack.make", "rename"): "a folder is renamed as a whole, after an fsync of each file",
    ("ecm_cluster.staging.staged_set", "replace"): "of what had its fsync; an fsync of the folder follows",
    ("ecm_cluster.synthesize", "replace"): "a folder is renamed as a whole; can be made again from its seed",
    ("ecm_cluster.synthetic.dataset", "write_bytes"): "can be made again from its seed; sizes are checked",
}


def writes(module: Module) -> Iterator[tuple[int, str]]:
    """(line, call) of each call that writes or renames a file."""
    ours = {"files"}  # files.write_text(…) and its siblings are the lawful way
    for node in module.nodes:
        if not isinstance(node, ast.Call):
            continue
        name, function = called(node), node.func
        owner = function.value if isinstance(function, ast.Attribute) else None
        if isinstance(owner, ast.Name) and owner.id in ours:
            continue
        if name == "open" and any(is_writing_mode(a) for a in node.args + [k.value for k in node.keywords]):
            yield node.lineno, "open"
        elif name in WRITERS and owner is not None and not any(is_handle(a) for a in node.args):
            yield node.lineno, name
        elif name == "replace" and owner is not None and not node.keywords \
                and (ast.unparse(owner) == "os" or len(node.args) == 1):  # str.replace takes two
            yield node.lineno, "replace"


def is_handle(node: ast.expr) -> bool:
    """What is written to an open file is the business of the code that opened it."""
    return isinstance(node, ast.Name) and node.id in ("handle", "buffer")


def is_writing_mode(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) \
        and re.fullmatch(r"[rwaxbt+]{1,3}", node.value) is not None and bool(set(node.value) & set("wax+"))


def test_files_are_written_through_files_py() -> None:
    found = {(m.name, call): f"{m.where}:{line} {call}" for m in modules("ecm_cluster")
             for line, call in writes(m) if m.name != "ecm_cluster.base.files"}
    holds([where for key, where in found.items() if key not in WRITTEN_OTHERWISE])
    stale = [f"{key} is no longer there: take it off WRITTEN_OTHERWISE" for key in WRITTEN_OTHERWISE
             if key not in found]
    holds(stale)


def without_encoding(module: Module) -> Iterator[tuple[int, str]]:
    """(line, call) of each call that opens text without saying in which encoding."""
    for node in module.nodes:
        if not isinstance(node, ast.Call) or "encoding" in {k.arg for k in node.keywords}:
            continue
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        modes = [a.value for a in (*node.args[1:], *(k.value for k in node.keywords)) if isinstance(a, ast.Constant)]
        name, binary = called(node), any(isinstance(m, str) and "b" in m for m in modes)
        if (name in ("read_text", "write_text") and owner not in ("", "files", "reading")) \
                or (name == "open" and not owner and not binary) or (name == "fdopen" and not binary) \
                or (name in ("run", "Popen") and any(k.arg == "text" for k in node.keywords)):
            yield node.lineno, name or ""


def test_text_is_utf_8_regardless_of_the_locale() -> None:
    holds([f"{m.where}:{line} {call}: give encoding=\"utf-8\"" for m in modules("ecm_cluster")
           for line, call in without_encoding(m)])


# -- size, and what the project says of itself


def project_files() -> list[Path]:
    """Text files of the checkout that git has or would take."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True, check=True)
    found = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in found if path.is_file() and b"\0" not in path.read_bytes()[:4096]]


# spelled in pieces, since this file is under the rule as well
OUTSIDE = {
    "a folder of one machine": r"(?<![\w.-])/(?:wo" r"rk|ro" r"ot|ho" r"me/\w+)\b",
    "a folder beside the checkout": r"\.\./sha" r"red",
    "the host of a package registry": r"\b(?:py" r"pi\.org|pythonho" r"sted\.org|registry\.npm" r"js\.org|"
                                      r"deb\.deb" r"ian\.org|archive\.ub" r"untu\.com|"
                                      r"conda\.ana" r"conda\.org|download\.pyt" r"orch\.org/whl)",
}
MAY_NAME = {(".ci/run", "a folder beside the checkout")}  # a wheelhouse may be there


def test_the_project_names_no_path_outside_itself_and_no_package_registry() -> None:
    violations = []
    for path in project_files():
        where = str(path.relative_to(ROOT))
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            for what, pattern in OUTSIDE.items():
                if (where, what) not in MAY_NAME and re.search(pattern, line):
                    violations.append(f"{where}:{number} names {what}: {line.strip()[:80]}")
    holds(violations)


# -- law 6: what others may have written is never executed, and their files are never followed or changed


EXECUTES = {  # a call that makes code, or any object, of bytes
    "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "builtins.compile",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.load", "cPickle.loads", "dill.load", "dill.loads",
    "cloudpickle.load", "cloudpickle.loads", "joblib.load", "shelve.open", "marshal.load", "marshal.loads",
    "pandas.read_pickle", "pd.read_pickle", "torch.jit.load", "torch.hub.load", "runpy.run_path", "runpy.run_module",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.unsafe_load_all", "yaml.full_load_all",
    "mmcv.load", "mmcv.Config.fromfile", "Config.fromfile", "Config.fromstring", "os.system", "os.popen",
    "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn", "code.interact"}
# (module, call) -> why it may
EXECUTED: dict[tuple[str, str], str] = {
    ("ecm_cluster.mmconfig.source", "exec"): "a config is Python; read once, for the user who names it",
    ("ecm_cluster.mmconfig.source", "compile"): "the same",
    ("ecm_cluster.base.yaml_file", "yaml.load"): "with a subclass of yaml.SafeLoader",
}


def dotted(node: ast.AST) -> str:
    """``pickle.loads`` of that attribute; empty where what stands before the dots is not a name."""
    if isinstance(node, ast.Name):
        return node.id
    owner = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{owner}.{node.attr}" if owner and isinstance(node, ast.Attribute) else ""


def calls(*packages: str) -> Iterator[tuple[Module, ast.Call, str]]:
    for module in modules(*packages):
        for node in module.nodes:
            if isinstance(node, ast.Call):
                yield module, node, dotted(node.func)


FALSE = ast.Constant(False)


def given(call: ast.Call, keyword: str) -> ast.expr | None:
    """What a call gives by a keyword."""
    return next((k.value for k in call.keywords if k.arg == keyword), None)


def holds_except(found: list[tuple[tuple[str, str], str]], exempt: dict[tuple[str, str], str], called: str) -> None:
    """No violation except the exemptions, and no exemption without a violation."""
    holds([where for key, where in found if key not in exempt]
          + [f"{key} is no longer there: take it off {called}" for key in exempt
             if key not in {key for key, _ in found}])


def test_nothing_that_was_read_is_executed_or_unpickled() -> None:
    found = [((m.name, name), f"{m.where}:{call.lineno} calls {name}") for m, call, name in calls() if name in EXECUTES]
    holds_except(found, EXECUTED, "EXECUTED")
    holds([f"{m.where}:{call.lineno} unpickles what another rank sends" for m, call, _ in calls()
           if re.search(r"^(all_gather|gather|broadcast|scatter|send|recv)_object(_list)?$|^collect_results",
                        called(call) or "")])
    holds([f"{m.where}:{call.lineno} gives a command line to a shell" for m, call, _ in
           calls("ecm_cluster", "mmdet_ext", "tools", "benchmarks") if given(call, "shell") is not None])
    holds([f"{m.where}:{i.line} imports {i.name}" for m in modules() for i in m.imports
           if i.name.split(".")[0] in ("dill", "cloudpickle", "joblib", "shelve", "marshal", "imp", "telnetlib")])


def test_every_load_of_a_checkpoint_says_what_it_may_hold() -> None:
    found = [(m, call) for m, call, name in calls("ecm_cluster", "mmdet_ext", "tools", "benchmarks")
             if name == "torch.load"]
    assert found
    holds([f"{m.where}:{call.lineno} {ast.unparse(call)} may execute what the file says" for m, call in found
           if ast.unparse(given(call, "weights_only") or FALSE) != "True"
           and ast.unparse(given(call, "pickle_module") or FALSE) != "restricted"])
    holds([f"{m.where}:{call.lineno} {ast.unparse(call)} reads pickles" for m, call, name in calls()
           if name in ("np.load", "numpy.load") and ast.unparse(given(call, "allow_pickle") or FALSE) != "False"])


def test_ports_are_opened_on_an_address() -> None:
    # '' and 0.0.0.0 are every interface
    holds([f"{m.where}:{node.lineno} names every interface" for m in modules() for node in m.nodes
           if isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::", "[::]")])


def test_temporary_files_have_names_that_nobody_can_guess() -> None:
    holds([f"{m.where}:{call.lineno} {name}: another user can make the file first" for m, call, name in
           calls("ecm_cluster", "mmdet_ext", "tools", "benchmarks") if name == "tempfile.mktemp"])


# (module, call) -> why not by a descriptor
MODES_BY_PATH: dict[tuple[str, str], str] = {}


def test_modes_are_changed_only_on_what_this_call_has_opened() -> None:
    found = [((m.name, called(call)), f"{m.where}:{call.lineno} {ast.unparse(call)[:60]}") for m, call, _ in calls()
             if called(call) in ("chmod", "lchmod", "chown", "lchown", "copystat", "copymode")]
    holds_except(found, MODES_BY_PATH, "MODES_BY_PATH")


# where JSON is parsed without the reader that checks it -> why
JSON_UNCHECKED = {
    "ecm_cluster.base.reading": "it is that reader",
    "ecm_cluster.node.heartbeat": "from the worker that this process has started, through a pipe",
    "ecm_cluster.node.gathering": "from another rank of the job",
    "ecm_cluster.node.gpu.preflight": "from a process that this one has started",
    "ecm_cluster.diagnosis.environment": "from a process that this one has started",
    "ecm_cluster.diagnosis.storage": "from a process that this one has started",
    "ecm_cluster.node.checks.probe": "in the doctor's own folder, which is closed to others",
    "ecm_cluster.diagnosis.visiting": "in the doctor's own folder, which is closed to others",
    "ecm_cluster.checking.findings": "in the check's own folder, which is closed to others",
    "ecm_cluster.plan.operators": "in the environment that the job's Python comes from",
    "ecm_cluster.annotations.outline": "annotations, of any size; what is wrong with them is named",
    "ecm_cluster.scoring.checks": "annotations, of any size; what is wrong with them is named",
}


def test_json_is_parsed_by_the_reader_that_checks_it() -> None:
    found = {m.name: f"{m.where}:{call.lineno} {name}" for m, call, name in calls("ecm_cluster")
             if name in ("json.load", "json.loads", "json.JSONDecoder")}
    holds([where for name, where in found.items() if name not in JSON_UNCHECKED])
    holds([f"{name} parses none: take it off JSON_UNCHECKED" for name in JSON_UNCHECKED if name not in found])


def test_no_verb_reaches_past_the_filter_of_what_terminals_act_on() -> None:
    """Control sequences of our own go to ``output.bare``; no data does, but through ``printable``."""
    def allowed(module: Module, call: ast.Call, name: str) -> bool:
        line, last = ast.unparse(call), name.rpartition(".")[2]
        if last == "Console":
            return "file=output.bare(" in line
        if last == "Progress" and "console" in line:
            return "redirect_stdout=False, redirect_stderr=False" in line
        if name == "print" and "output.bare(" in line:
            return "output.printable(" in line
        written = name == "os.write" and module.path.name not in ("program.py", "__init__.py")
        return not (written and isinstance(call.args[0], ast.Constant))

    verbs_and_what_they_share = [m for m in modules("ecm_cluster") if not is_in(m.name, "ecm_cluster.node")
                                 and m.name != "ecm_cluster.console.output"]
    holds([m.where for m in verbs_and_what_they_share if "sys.__std" in m.text or "sys.stdout.buffer" in m.text])
    holds([f"{m.where}:{call.lineno} {ast.unparse(call)[:60]}" for m, call, name in calls("ecm_cluster")
           if m in verbs_and_what_they_share and not allowed(m, call, name)])
