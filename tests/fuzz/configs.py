"""mmdet configs, options and checkpoints that are not what they should be."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

from . import files
from .case import Case

# what each top-level name may not be
SECTIONS = ("data", "model", "optimizer", "optimizer_config", "lr_config", "runner", "workflow", "evaluation",
            "log_config", "checkpoint_config", "custom_hooks", "custom_imports", "load_from", "resume_from",
            "auto_scale_lr", "dist_params", "fp16", "seed", "mp_start_method", "find_unused_parameters", "log_level")
VALUES = ("None", "5", "'x'", "[]", "{}", "True", "-1", "1.5", "[1, 'x']", "(1,)", "{'type': 5}", "{'type': None}",
          "{'type': 'NoSuchClass'}", "{'type': ''}", "dict(type='SGD', lr='x')", "[None]", "[[]]", "10**6000",
          "float('nan')", "float('inf')", "b'x'", "{1, 2}", "lambda: 1", "object()", "1j", "'\\ud800'", "'a\\0b'",
          "'x' * 10**6", "{5: 3}", "{None: 1}", "{'a.b': 1}", "range(3)", "...", "int", "iter([])", "[{}]",
          "[('train', 1), ('x',)]", "[('train',)]", "[('train', 'x')]", "[('train', -1)]", "'\\x1b[2J'", "{'': 1}")
LINES = (
    "a = []\na.append(a)", "a = {}\na['a'] = a", "optimizer['self'] = optimizer", "data['train'] = data",
    "raise SystemExit", "raise ValueError('\\x1b[2J')", "1 / 0", "def f(): return f()\nf()",
    "import torch", "import nowhere", "from . import x", "open('/nowhere')", "x = '%d' % 'a'", "import os; os.abort",
    "assert False", "exit(3)", "quit()", "x = [0] * 10**10", "x = 10**10**8 if False else 1", "x = 1 << 10**7",
    "_base_ = 'nowhere.py'", "_base_ = 5", "_base_ = [None]", "_base_ = ['mine.py']", "_base_ = 'mine.py'",
    "_base_ = '/dev/zero'", "_base_ = {}", "_base_ = ['\\0']", "data = {{_base_.nowhere}}", "x = {{ fileDirname }}",
    "data.update(_delete_=True)", "model = dict(_delete_=True)", "data = dict(_delete_=5)", "class A: pass\nx = A()",
    "def broken(:", "  x = 1", "x = '", "x = \"\"\"", "\tx = 1\n x = 2", "data = data", "del data", "del nowhere",
    "globals().clear()", "__file__ = 5", "import sys; sys.exit('bye')", "print('\\x1b[2J')",
    "x = 'é'.encode('latin-1')",
    "import sys; sys.setrecursionlimit(5)", "dict = 5", "x = type('T', (), {'__repr__': lambda s: 1 / 0})()",
    "class D(dict):\n    def items(self):\n        raise RuntimeError\nmodel = D(model)",
    "import warnings; warnings.warn('w')",
    "data = dict(train=dict(dataset=dict(dataset=None)))", "x: int", "async def f(): pass", "x = await_", "return 5",
    "yield 5", "x = [i for i in 5]", "lambda", "from os import *", "custom_imports = dict(imports=['nowhere'])",
    "custom_imports = dict(imports='nowhere', allow_failed_imports=5)", "custom_imports = dict(imports=[5])",
)
# lines that no config can hold and still be one
WRONG = {"raise SystemExit", "1 / 0", "import nowhere", "_base_ = 'nowhere.py'", "_base_ = 5", "_base_ = [None]",
         "_base_ = ['mine.py']", "_base_ = 'mine.py'", "def broken(:", "x = '", 'x = """', "del nowhere", "return 5",
         "lambda", "assert False", "data = {{_base_.nowhere}}", "_base_ = {}", "a = []\na.append(a)",
         "a = {}\na['a'] = a", "data['train'] = data", "def f(): return f()\nf()", "_base_ = ['\\0']"}
KEYS = ("data", "data.train", "data.train.dataset", "data.samples_per_gpu", "data.workers_per_gpu", "data.val.ann_file",
        "data.test.pipeline", "data.test.pipeline.0", "data.test.type", "model", "model.type", "model.backbone",
        "model.backbone.depth", "model.backbone.init_cfg", "model.roi_head", "model.roi_head.bbox_head.num_classes",
        "model.roi_head.bbox_head.loss_cls.class_counts", "model.test_cfg", "model.test_cfg.rcnn.score_thr",
        "optimizer", "optimizer.lr", "optimizer.type", "optimizer.paramwise_cfg", "optimizer_config.grad_clip",
        "lr_config", "lr_config.step", "lr_config.warmup_iters", "lr_config.policy", "runner", "runner.max_epochs",
        "runner.type", "workflow", "evaluation", "evaluation.interval", "evaluation.metric", "log_config",
        "log_config.interval", "log_config.hooks", "auto_scale_lr.base_batch_size", "auto_scale_lr.enable", "load_from",
        "resume_from", "custom_hooks", "custom_hooks.0", "custom_imports", "custom_imports.imports", "fp16",
        "fp16.loss_scale", "dist_params.backend", "checkpoint_config", "checkpoint_config.interval", "x", "a.b.c",
        "data_root", "seed", "work_dir", "gpu_ids", "", ".", "a.", ".a", "a..b", "data.train.0", "_base_", "data.-1",
        "__class__", "model.__init__", "\u00e9", "+model", "+x", "++x", " ", "model ", "_delete_", "data._delete_")
WORDS = ("None", "5", "x", "'x'", "[]", "{}", "True", "false", "-1", "0", "1.5", "1e400", "nan", "inf", "9" * 5000,
         "[1,2", "(1,", "{'a':", "[" * 3000, "(" * 3000, "", "dict(a=1)", "{'type': 5}", "[None]", "[[[]]]", "a,b", ",",
         "\u00b2", "\u0663", "\udce4", "\x1b[2J", "a\nb", "a\\0b", "\\ud800", "'\\ud800'", "x" * 5000, "10**6000",
         "1_000", "0x10", "__import__('os').system('id')", "{'type': 'NoSuchClass'}", "~", "null", "/dev/zero",
         "http://127.0.0.1:9/x.pth", "torchvision://nowhere", "open-mmlab://nowhere", "1j", "b'x'", "...", "{1,2}")
# pairs of key and word that no program can make sense of
NO_VALUES = {(key, word) for word in ("None", "5", "x", "[]", "True") for key in ("data", "model", "optimizer")} \
    | {(key, word) for word in ("None", "x", "{}", "[[[]]]") for key in (
        "data.samples_per_gpu", "runner.max_epochs", "optimizer.lr", "auto_scale_lr.base_batch_size")} \
    | {(key, word) for word in ("5", "x", "True") for key in ("runner", "workflow", "custom_hooks")}


def write(case: Case, path: Path) -> None:
    """The demo's config, with lines behind it that change something."""
    base = case.library.folder / "demo.py"
    text = base.read_text() if case.rng.random() < 0.7 else f"_base_ = [{str(base)!r}]\n"
    inherits = not text.startswith("#")
    for _ in range(case.choose([1, 1, 2])):
        roll = case.rng.random()
        if roll < 0.45:
            section, value = case.choose(SECTIONS), case.choose(VALUES)
            text += f"\n{section} = {value}\n"
            case.changed(f"config: {section} = …", names=[section],
                         invalid=(section, value) in NO_VALUES and value not in ("[]", "{}"))
        elif roll < 0.8:
            line = case.choose(LINES)
            wrong = line in WRONG or (line == "data['train'] = data" and not inherits)
            text += f"\n{line}\n"
            case.changed(f"config: {line.splitlines()[0][:40]}", invalid=wrong, names=re.findall(r"\w+", line)[:1])
        else:
            break
    case.write(path.name, text)
    case.names += [path.name, "config"]
    if not case.kinds:
        if case.rng.random() < 0.25:
            files.mistreat(case, path, "a config")
            case.invalid = True
        else:
            files.damage(case, path, "py")


def option(case: Case) -> None:
    key, word = case.choose(KEYS), case.choose(WORDS)
    case.argv += ["--set", case.choose([f"{key}={word}"] * 12 + [key, "=", f"{key}=={word}"])]
    whole = case.argv[-1] == f"{key}={word}"
    case.changed("--set", names=["set", "option", key, key.split(".")[0], key.split(".")[-1]],
                 invalid=whole and (key, word) in NO_VALUES)


class _Runs:
    """What a pickle of an attacker would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch executed",)


def corrupt_checkpoint(case: Case, path: Path) -> None:
    roll = case.rng.random()
    if roll < 0.2:
        files.mistreat(case, path, "a checkpoint")
        case.invalid = True
        return
    data = path.read_bytes()
    if roll < 0.5:
        files.damage(case, path, "binary")
        case.invalid = case.kinds[-1] in ("binary emptied", "binary cut", "binary random bytes")
        return
    name, made = case.choose(sorted(_others(case, data).items()))
    case.replace(path, made)
    case.changed(f"a checkpoint is {name}", invalid=name not in ("a plain pickle of None", "a pickle of a number"))
    case.names += [path.name]


def _others(case: Case, data: bytes) -> dict[str, bytes]:
    def archive(**members: bytes) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as out:
            for name, content in members.items():
                out.writestr(name.replace("__", "/").replace("_", "."), content)
        return made.getvalue()

    runs = pickle.dumps(_Runs(), protocol=2)
    return {"a pickle that runs a program": runs, "an archive that runs a program": archive(archive__data_pkl=runs),
            "a plain pickle of None": pickle.dumps(None, 2), "a pickle of a number": pickle.dumps(5, 2),
            "an empty archive": archive(), "an archive without data.pkl": archive(archive__x=b"x"),
            "an archive that unpacks to 64 MiB": archive(archive__data_pkl=bytes(1 << 26)),
            "an archive of garbage": archive(archive__data_pkl=b"garbage"), "text": b"hello\n", "JSON": b"{}",
            "a deep pickle": b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
            "a pickle of a huge number": b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\x01" * 100 + b"."}
