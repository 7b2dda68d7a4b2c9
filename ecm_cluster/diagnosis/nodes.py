"""Whether a partition has enough nodes with the GPUs, CPUs and memory that the job requests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..base.units import size_text
from ..slurm import commands, site
from .asked import Asked
from .finding import Finding, fails, not_asked, ok, warning

DOWN = ("down", "drain", "drng", "fail", "boot", "inval", "unk", "futr", "pow")  # prefixes of states without new jobs


@dataclass(frozen=True)
class Nodes:
    """Identical nodes of a partition.

    Attributes:
        gpus: Number of GPUs per node, by type.
        state: As abbreviated by ``sinfo``.
        memory: MiB per node.
    """

    partition: str
    gpus: Mapping[str, int]
    state: str
    cpus: int
    memory: int
    count: int

    def has(self, kind: str | None) -> int:
        """Number of GPUs of a type, or of all types."""
        return sum(count for name, count in self.gpus.items() if not kind or name == kind)


def cpus(asked: Asked) -> int:
    """CPUs that the job requests on each node."""
    return asked.job.gpus * asked.job.cpus_per_gpu


def memory(asked: Asked) -> int:
    """MiB that the job requests on each node; 0 if it leaves that to the site."""
    return asked.job.gpus * (asked.job.memory_mib or 0)


def check(asked: Asked, chosen: Sequence[site.Partition]) -> Iterator[Finding]:
    """Whether the nodes of the job's partitions have the resources that it requests."""
    out = commands.ask("sinfo", "-h", "-a", "-e", "-o", "%R|%G|%t|%c|%m|%D", timeout=8.0)
    if out is None:
        yield not_asked("limits.nodes", "sinfo does not answer")
        return
    known = [nodes for line in out.splitlines() if (nodes := _read(line)) is not None]
    for partition in chosen:
        own = [nodes for nodes in known if nodes.partition == partition.name and nodes.count]
        if not own and partition.nodes == 0:
            yield fails(f"limits.nodes.{partition.name}", "it has no nodes", "choose another partition")
        elif not own:
            yield not_asked(f"limits.nodes.{partition.name}", "sinfo lists none of its nodes")
        if not own:
            continue
        gpus = _gpus(asked, f"limits.gpus.{partition.name}", own) if asked.job.device == "cuda" else None
        if gpus is not None:
            yield gpus
        if gpus is None or gpus.state == "ok":
            yield _size(asked, f"limits.nodes.{partition.name}", own)


def _read(line: str) -> Nodes | None:
    words = line.split("|")
    if len(words) != 6:
        return None
    gpus: dict[str, int] = {}
    for kind, number in re.findall(r"gpu:(?:([^:,()]+):)?(\d+)", words[1]):
        gpus[kind] = gpus.get(kind, 0) + int(number)
    processors, mebibytes, count = (int(re.sub(r"\D.*", "", word) or 0) for word in words[3:])
    return Nodes(words[0], gpus, words[2], processors, mebibytes, count)


def _gpus(asked: Asked, name: str, own: Sequence[Nodes]) -> Finding:
    job, wanted = asked.job, asked.job.gpu_type
    kinds = {kind: max(nodes.gpus.get(kind, 0) for nodes in own) for nodes in own for kind in nodes.gpus}
    text = "its nodes have " + (", ".join(f"{count} × {kind or 'gpu'}" for kind, count in sorted(kinds.items()))
                                or "no GPU")
    if wanted and wanted not in kinds:
        return fails(name, f"{text}; the job requests {wanted}", "give another --gpu-type or --partition")
    if max(nodes.has(wanted) for nodes in own) < job.gpus:
        return fails(name, f"{text}; the job requests {job.gpus} per node", "give fewer --gpus, another --partition "
                     "or --device cpu")
    return ok(name, text)


def _size(asked: Asked, name: str, own: Sequence[Nodes]) -> Finding:
    """Whether there are enough nodes that are large enough, and whether any of them is up."""
    job, processors, mebibytes = asked.job, cpus(asked), memory(asked)
    asks = (f"the job requests {processors} CPUs"
            + (f" and {size_text(mebibytes << 20)} of memory" if mebibytes else "") + " per node")
    text = (f"its {sum(nodes.count for nodes in own)} nodes have up to {max(nodes.cpus for nodes in own)} CPUs and "
            f"{size_text(max(nodes.memory for nodes in own) << 20)} of memory")
    fitting = [nodes for nodes in own if nodes.cpus >= processors and nodes.memory >= mebibytes
               and (job.device != "cuda" or nodes.has(job.gpu_type) >= job.gpus)]
    count = sum(nodes.count for nodes in fitting)
    if not count:
        return fails(name, f"{text}; {asks}", "give less --cpus-per-gpu or --mem-per-gpu, fewer --gpus, or another "
                     "--partition")
    if count < job.nodes:
        return fails(name, f"{text}; {asks}, which {count} of them have, but it needs {job.nodes} nodes",
                     f"give --nodes {count}, or another --partition")
    if all(nodes.state.startswith(DOWN) for nodes in fitting):
        return warning(name, f"{text}; all nodes that fit are {', '.join(sorted({n.state for n in fitting}))}",
                       "the job will wait until they are up again")
    return ok(name, text)
