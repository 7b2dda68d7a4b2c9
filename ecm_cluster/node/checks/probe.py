"""What the doctor's job looks at on a compute node, in the job's own environment; each node writes its findings.

Standard library alone until it is known whether torch and mmdet can be imported.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...base import files
from ...base.disk import filesystem
from ...diagnosis import environment, folder, interpreter, requirements, sharing
from ...diagnosis.finding import Finding, carried_out, fails, ok, warning
from ...job import job as jobs
from ...plan import operators
from ...slurm import commands
from ...staging import planned
from .. import rendezvous, world
from ..gpu import preflight
from ..gpu.cuda_driver import Driver, DriverError

ASKED, FOUND = "asked.json", "findings"
NETWORK_SECONDS = 60.0  # for a collective on the wrong interface, which only times out; the job has 10 minutes
NETWORK_MIB = 64  # enough that the bandwidth, and not the latency, decides how long it takes


class NodeProbe:
    """One task of the doctor's job.

    Attributes:
        folder: Where it finds what it is asked, and leaves its findings.
        again: Not empty: this is the second job, which only looks for what the first has left in the scratch.
    """

    def __init__(self, folder: str, again: str = "") -> None:
        self.folder, self.again = folder, bool(again)

    def __call__(self) -> None:
        place, own = world.identify(), Path(self.folder)
        asked = json.loads((own / ASKED).read_text(encoding="utf-8"))
        self.look(place, own, asked)

    def look(self, place: world.RankInfo, own: Path, asked: dict[str, Any]) -> None:
        """Look, and write what was found; again after the last check, which other nodes can hold up."""
        node = world.node_name()
        job = jobs.make(asked["job"])
        if self.again:
            found = list(carried_out("node.scratch.kept", lambda: kept(job, asked["token"])))
            write(own, node, "again", found)
            return
        found = [*_alone(place, job, asked, node)]
        write(own, node, "alone", found)
        if place.world_size > 1 and not any(one.id == "node.import" and one.state == "fails" for one in found):
            write(own, node, "network", list(carried_out("node.network", lambda: network(place, job, own))))


def write(own: Path, node: str, what: str, found: list[Finding]) -> None:
    """Leave findings for the login node."""
    files.write_json(findings_file(own, node, what), [one.as_dict() for one in found])


def findings_file(own: Path, node: str, what: str) -> Path:
    """Where a node leaves what it has found."""
    return own / f"{FOUND}.{node}.{what}.json"


def _alone(place: world.RankInfo, job: jobs.Job, asked: dict[str, Any], node: str) -> Iterator[Finding]:
    for name, path in asked["folders"].items():
        shared = functools.partial(sharing.look, name, Path(path), asked["token"], node)
        yield from carried_out(f"node.folder.{name}", shared)
    yield from carried_out("node.data", lambda: files_there("node.data", asked["data"], "--data-root"))
    yield from carried_out("node.weights", lambda: files_there("node.weights", asked["weights"],
                                                               "$ECM_CLUSTER_WEIGHTS"))
    yield from carried_out("node.scontrol", lambda: scontrol(place))
    yield from carried_out("node.scratch", lambda: scratch(job, asked["token"]))
    yield from carried_out("node.python", lambda: python(asked["requirements"]))
    if job.device == "cuda":
        yield from carried_out("node.gpu", lambda: gpu(place))


def files_there(name: str, wanted: list[list[Any]], option: str) -> Iterator[Finding]:
    """Whether the node sees files as the login node does: ``wanted`` has path and size of each."""
    for path, size in wanted:
        try:
            here = os.stat(path).st_size
        except OSError as error:
            yield fails(name, f"{path}: {error.strerror}; the login node sees it",
                        f"put it on shared storage ({option})")
            return
        if here != size:
            yield fails(name, f"{path} has {here} bytes here and {size} on the login node",
                        "is it the same file? Put it on shared storage")
            return
    if wanted:
        yield ok(name, f"{len(wanted)} file(s) seen as on the login node")


def scontrol(place: world.RankInfo) -> Iterator[Finding]:
    """Whether the job can ask Slurm why it was signalled."""
    if not place.on_slurm:
        return
    if not commands.can_ask():
        yield warning("node.scontrol", "no scontrol in PATH: a run cannot ask why it was signalled, nor requeue "
                      "itself, and stays until Slurm brings it back", "add Slurm's commands to PATH in `setup`")
    elif commands.show_job(place.job_id, timeout=10.0) is None:
        yield warning("node.scontrol", "`scontrol show job` does not answer", "tell the administrator")
    else:
        yield ok("node.scontrol", "scontrol answers")


def scratch(job: jobs.Job, token: str) -> Iterator[Finding]:
    """The folder for staged data; leaves a file there, for the second job to find."""
    path = planned.scratch_of(planned.plan(job, None), os.environ)
    if path is None:
        yield warning("node.scratch", "there is none: neither --scratch nor $SLURM_TMPDIR nor $TMPDIR; data is read "
                      "from shared storage", "give --scratch, a folder on the node's own disk")
        return
    if not path.parent.is_dir():
        yield fails("node.scratch", f"{path.parent} does not exist on this node", "give another --scratch")
        return
    found = list(folder.check("scratch", path, "node"))
    if filesystem(path).in_memory:
        found.append(warning("node.scratch.memory", f"{path} is memory, and counts against the job's",
                             "give a --scratch on disk, or more --mem-per-gpu"))
    if found[0].state == "ok":
        path.mkdir(exist_ok=True)
        files.write_text(_left(path, token), token)
    yield from found


def kept(job: jobs.Job, token: str) -> Iterator[Finding]:
    """Whether the second job on a node finds what the first has left in the scratch."""
    path = planned.scratch_of(planned.plan(job, None), os.environ)
    if path is not None and _left(path, token).exists():
        _left(path, token).unlink()
        yield ok("node.scratch.kept", f"{path} outlives a job: staged data is there for the next attempt on the node")
    else:
        yield warning("node.scratch.kept", f"{path} does not outlive a job: each attempt copies its data again",
                      "give a --scratch that persists, if the nodes have one")


def _left(path: Path, token: str) -> Path:
    return Path(os.path.join(path, f"{folder.MARK}{token}"))


def python(wanted: dict[str, list[str]]) -> Iterator[Finding]:
    """The interpreter, its packages, and whether they can be imported."""
    version = platform.python_version()
    there = interpreter.versions()
    yield environment.of_python("node.python", version, sys.executable, wanted["python"])
    lines = [*wanted["base"], *wanted["train"]]
    yield from environment.packages("node.packages", requirements.parsed(lines, version), there, sys.executable)
    yield from environment.fitting(there, operators.of_interpreter(sys.executable), "node.fit")
    yield from environment.importable("node.import", interpreter.imported(list(environment.IMPORTS)), sys.executable)


def gpu(place: world.RankInfo) -> Iterator[Finding]:
    """The GPU, the driver against torch's CUDA, and mmcv's operators: what each start of a run checks."""
    problem = preflight.check(place.local_rank)
    if problem is not None:
        text, _, remedy = problem.text.rpartition("; ")
        yield fails("node.gpu", text or remedy, remedy)
        return
    try:
        driver = Driver()
        gpus = driver.gpus()
    except DriverError as error:
        yield fails("node.gpu", str(error), "leave this node out with --exclude, or tell its administrator")
        return
    names = ", ".join(sorted({f"{one.name} (sm_{one.capability[0]}{one.capability[1]})" for one in gpus}))
    release, cuda = driver.version(), preflight.torch_release()
    yield ok("node.gpu", f"{len(gpus)} × {names}; driver for CUDA {release[0]}.{release[1]}, torch for "
             f"{cuda[0]}.{cuda[1]}; mmcv-full has operators for {preflight.mmcv_operators()}")


def network(place: world.RankInfo, job: jobs.Job, own: Path) -> Iterator[Finding]:
    """Whether the ranks find each other and reduce a tensor together; collective."""
    import torch
    import torch.distributed as dist

    backend = "NCCL" if job.device == "cuda" else "gloo"
    try:
        if job.device == "cuda":
            torch.cuda.set_device(world.device_index(place, torch.cuda.device_count()))
        group = rendezvous.join(place, own / "rendezvous.json", job.device, NETWORK_SECONDS)
        tensor = torch.ones(NETWORK_MIB << 18, device=job.device)  # float32
        dist.all_reduce(tensor, group=dist.group.WORLD)
        began = time.monotonic()
        dist.all_reduce(tensor, group=dist.group.WORLD)
        right = bool((tensor == place.world_size ** 2).all())
        seconds = time.monotonic() - began
        rendezvous.leave(group)
    except Exception as error:  # torch has no class for all that can go wrong here
        said = " ".join(str(error).split())[:300]
        yield fails("node.network", f"{place.world_size} ranks on {place.nodes} nodes cannot reduce a tensor together "
                    f"with {backend}: {type(error).__name__}: {said}",
                    "set NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME in `env` to the interface between the nodes")
        return
    interface = os.environ.get("NCCL_SOCKET_IFNAME") or os.environ.get("GLOO_SOCKET_IFNAME") or "any interface"
    if not right:
        yield fails("node.network", f"{backend} reduces a tensor to wrong numbers", "leave these nodes out (--exclude)")
        return
    yield ok("node.network", f"{place.world_size} ranks on {place.nodes} nodes reduce {NETWORK_MIB} MiB with {backend} "
             f"in {seconds:.2f} s by {interface}")


def main(folder: str) -> None:
    """Look at this machine, where it takes the place of a node."""
    place = world.RankInfo(rank=0, world_size=1, local_rank=0, node=0, nodes=1, job_id=str(os.getpid()), restart=0,
                        cluster="local")
    NodeProbe(folder).look(place, Path(folder), json.loads((Path(folder) / ASKED).read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(sys.argv[1])
