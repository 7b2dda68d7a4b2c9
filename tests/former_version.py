"""Two run directories as version 0.1.0 left them.

``former_version.json`` holds the files of a run of the demo on one machine: trained for three epochs, cancelled while
it was being scored, resumed with other memory, then scored under another setting as well. Its checkpoints are a line of
text each.

``former_run.tar.xz`` holds a run that was cancelled before its first iteration, with its frozen code, so that its
processes can be started; and the job file that it was submitted with. The code lacks comments, docstrings, and modules
that neither a submission nor a run of the demo imports.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from ecm_cluster.rundir.run import Run

FILES = Path(__file__).parent / "golden/former_version.json"
CANCEL = "cancelled.json"


def complete(folder: Path) -> Run:
    """The run when all was scored."""
    texts = json.loads(FILES.read_text().replace("@HERE@", str(folder)))
    run = folder / "runs/former"
    for name, text in texts.items():
        path = run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name != CANCEL:
            path.write_text(text)
    _age(run)
    return Run(run)


def with_code(folder: Path, data: Path) -> Run:
    """The run that can be started: 12 epochs on the small data set, which it finds in ``folder``."""
    shutil.unpack_archive(str(FILES.with_name("former_run.tar.xz")), str(folder))
    (folder / "data").symlink_to(data)
    run = Run(folder / "runs/former")
    for path in (p for p in run.path.rglob("*") if p.is_file() and run.code_folder(1) not in p.parents):
        path.write_text(path.read_text().replace("@HERE@", str(folder)))
    return run


def checkout(folder: Path) -> Path:
    """A checkout of that version, enough to submit the demo from it."""
    shutil.unpack_archive(str(FILES.with_name("former_run.tar.xz")), str(folder / "unpacked"))
    made = folder / "checkout"
    shutil.copytree(str(folder / "unpacked/runs/former/code"), str(made))
    shutil.copytree(str(folder / "unpacked/jobs"), str(made / "jobs"))
    return made


def cancelled(folder: Path, cluster: str = "local") -> Run:
    """The run as it would have been, cancelled after its second epoch.

    Args:
        cluster: Where it ran; what the records say of that.
    """
    run = complete(folder)
    run.complete_file(1).unlink()
    for path in (*run.evaluations_dir.glob("iter_*/metrics.json"), *run.checkpoints_dir.glob("iter_0000021*")):
        path.unlink()
    run.cancel_file.write_text(json.loads(FILES.read_text())[CANCEL])
    ledger = run.ledger_dir / "0001-train000.jsonl"
    kept = [json.loads(line) for line in ledger.read_text().splitlines()][:2]
    kept.append({"sequence": 3, "kind": "end", "time": kept[-1]["time"], "cause": "cancelled", "detail": "the job was "
                 "cancelled (SIGTERM received)", "rank": 0})
    ledger.write_text("".join(json.dumps(line) + "\n" for line in kept))
    for path in (run.run_file, run.submission_file("train"), run.attempt_file(1)):
        path.write_text(path.read_text().replace('"cluster": "local"', f'"cluster": "{cluster}"')
                        .replace('"local:', f'"{cluster}:'))
    _age(run.path)
    return Run(run.path)


def _age(folder: Path) -> None:
    """Make all of it look written long ago."""
    for path in folder.rglob("*"):
        os.utime(path, (1.6e9, 1.6e9))
