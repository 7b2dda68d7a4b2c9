"""How the ranks of an attempt find each other, and that nobody else is let in."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small import ROOT
from users import ATTACKER, VICTIM, command_as, environment, home_of, needs_root, run_as, shared_folder

from ecm_cluster.attempts.failures import NotStartable
from ecm_cluster.base import files
from ecm_cluster.node import rendezvous

TOKEN = "0123456789abcdef" * 2


def record(port: int, address: str = "127.0.0.1", **more: object) -> dict:
    return {"token": TOKEN, "address": address, "port": port, "file": None, **more}


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


# ---------------------------------------------------------------------------------------------- addresses


INTERFACES = [("lo", "127.0.0.1"), ("eth0", "192.168.0.7"), ("ib0", "10.1.0.7")]


def address(monkeypatch: pytest.MonkeyPatch, resolved: str | None, **env: str) -> str:
    """What a node with these interfaces takes; made up, as no test can add one."""
    def getaddrinfo(*_: object) -> list:
        if resolved is None:
            raise socket.gaierror("Name or service not known")
        return [(2, 1, 6, "", (resolved, 0))]

    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "SLURM_LAUNCH_NODE_IPADDR", "SLURMD_NODENAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rendezvous.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(rendezvous, "interfaces", lambda: INTERFACES)
    return rendezvous.addresses()[0]


@pytest.mark.parametrize(("resolved", "env", "expected"), [
    ("10.1.0.7", {}, "10.1.0.7"),
    ("127.0.1.1", {}, "192.168.0.7"),  # Debian and Ubuntu
    (None, {}, "192.168.0.7"),
    ("172.16.0.1", {}, "192.168.0.7"),  # of a name that resolves to another machine
    ("192.168.0.7", {"SLURM_LAUNCH_NODE_IPADDR": "10.1.0.7"}, "10.1.0.7"),
    ("192.168.0.7", {"SLURM_LAUNCH_NODE_IPADDR": "10.1.0.99"}, "192.168.0.7"),  # another node's
    ("192.168.0.7", {"SLURM_LAUNCH_NODE_IPADDR": "192.168.0.7", "GLOO_SOCKET_IFNAME": "ib0"}, "10.1.0.7"),
    ("192.168.0.7", {"NCCL_SOCKET_IFNAME": "=ib0,ib1"}, "10.1.0.7")])
def test_the_store_of_several_nodes_listens_where_the_others_come_from(monkeypatch, resolved, env, expected):
    assert address(monkeypatch, resolved, **env) == expected


def test_a_node_without_a_network_reaches_itself(monkeypatch):
    monkeypatch.setattr(rendezvous, "interfaces", lambda: INTERFACES[:1])
    assert rendezvous.addresses() == ["127.0.0.1"]


def test_interfaces_have_names_and_addresses():
    assert dict(rendezvous.interfaces()).get("lo") == "127.0.0.1"
    assert rendezvous.interface("127.0.0.1") == "lo"
    for name, ip in rendezvous.interfaces():
        assert ip.startswith("127.") or rendezvous.interface(ip) == name


# ---------------------------------------------------------------------------------------------- the file


def test_a_file_that_is_torn_or_wrong_or_names_a_dead_port_is_waited_out(listening, tmp_path):
    path = tmp_path / "rendezvous.json"
    path.write_text('{"addresses": ["127.0')

    def write_records() -> None:
        for wrong in ([], {}, record(99999), record(1, "::1"), record(1, token=""), record(1, file="/etc/passwd"),
                      record(dead)):
            files.write_json(path, wrong)
            time.sleep(0.03)
        files.write_json(path, record(listening))

    dead = closed_port()
    thread = threading.Thread(target=write_records)
    thread.start()
    assert rendezvous.await_record(path, 30) == record(listening)
    thread.join()


def test_a_rank_0_that_never_comes_is_named_by_its_file(tmp_path):
    path = tmp_path / "0001.rendezvous.json"
    with pytest.raises(TimeoutError, match=r"within 0 s through .*0001\.rendezvous\.json; is the run directory"):
        rendezvous.await_record(path, 0.1)
    files.write_json(path, record(closed_port()))
    with pytest.raises(TimeoutError, match=r"at 127\.0\.0\.1 within 0 s .* set GLOO_SOCKET_IFNAME"):
        rendezvous.await_record(path, 0.1)


@needs_root
def test_a_file_that_another_user_has_put_there_is_refused(tmp_path, listening):
    path = tmp_path / "rendezvous.json"
    files.write_json(path, record(listening))
    os.chown(path, ATTACKER, ATTACKER)
    with pytest.raises(NotStartable, match=f"uid {ATTACKER}"):
        rendezvous.await_record(path, 5)
    path.unlink()
    files.write_json(tmp_path / "elsewhere.json", record(listening))
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(OSError, match="symbolic links"):
        rendezvous.await_record(path, 5)


# ---------------------------------------------------------------------------------------------- joined


JOINING = """
import json, os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from ecm_cluster.node.rendezvous import join
from ecm_cluster.node.world import identify

place = identify()
group = join(place, Path(sys.argv[1]), "cpu", 60.0)
total = torch.tensor([float(10 ** place.rank)])
dist.all_reduce(total)
most = torch.tensor([place.rank])
dist.all_reduce(most, op=dist.ReduceOp.MAX, group=group)
own = {link for link in (os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if os.path.islink(fd))}
lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/self/net", name).read_text().splitlines()]
listening = sorted({line[1].split(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in own})
print(json.dumps([place.rank, total.item(), most.item(), dist.get_backend(), dist.get_world_size(),
                  os.environ.get("GLOO_SOCKET_IFNAME"), listening]), flush=True)
if len(sys.argv) > 2:
    sys.stdin.read()
dist.barrier(group)
dist.destroy_process_group()
"""
LOOPBACK = "0100007F"  # as /proc/net/tcp has it


def variables(rank: int, size: int, nodes: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "1", "SLURM_NTASKS": str(size), "SLURM_JOB_NUM_NODES": str(nodes),
            "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank % nodes), "SLURM_LOCALID": str(rank // nodes)}


def joined(path: Path, size: int, nodes: int) -> list[list]:
    """Start so many ranks, the first one last, and return what each saw."""
    ranks = [subprocess.Popen([sys.executable, "-c", JOINING, str(path)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, env={**os.environ, **variables(rank, size, nodes)})
             for rank in reversed(range(size))]
    seen = []
    for process in ranks:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        seen.append(json.loads(out.splitlines()[-1]))
    return sorted(seen)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "nodes", "attempts"), [(1, 1, 1), (3, 1, 1), (2, 2, 2)])
def test_ranks_find_each_other_through_a_file_and_reduce_in_two_groups(tmp_path, size, nodes, attempts):
    total = float(sum(10 ** rank for rank in range(size)))
    for attempt in range(1, attempts + 1):  # the second beside the left-over file of the first
        seen = joined(tmp_path / f"{attempt:04d}.rendezvous.json", size, nodes)
        assert [s[:5] for s in seen] == [[rank, total, size - 1, "gloo", size] for rank in range(size)]
        assert len({s[5] for s in seen}) == 1, "all ranks take the same interface"
        if nodes == 1:
            assert {address for s in seen for address in s[6]} <= {LOOPBACK}, "nobody listens to other machines"
        else:
            import torch

            if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 2):
                assert not {"00000000", "0" * 32} & {address for s in seen for address in s[6]}
    records = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    assert len({r["token"] for r in records}) == attempts
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


INTRUDING = """
import os, sys
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist

try:
    print(Path(sys.argv[1]).read_text())
except PermissionError:
    print("unreadable")
try:
    os.listdir(sys.argv[3])
    print("a way into the memory")
except OSError:
    pass
if sys.argv[2] != "0":
    # what a rank of this version would say, had it no token, or a guessed one
    store = dist.TCPStore("127.0.0.1", int(sys.argv[2]), 2, is_master=False, timeout=timedelta(seconds=2),
                          wait_for_workers=False)
    for prefix in ("", "default_pg/", "0" * 32 + "/"):
        for key in ("0", "0/0", "default_pg/0//cpu//0/rank_1", "rank_1"):
            store.set(prefix + key, "unauthenticated")
    print("spoke")
"""


@pytest.mark.slow
@needs_root
def test_a_unknown_client_can_neither_read_the_file_nor_take_a_ranks_place(tmp_path):
    """One who is on the same node, knows the port, and speaks before the real rank 1 comes."""
    shared = shared_folder()
    home, path = home_of(VICTIM, shared), shared / "home-61001" / "rendezvous.json"
    home_of(ATTACKER, shared)
    ranks = []
    for rank in (0, 1):
        if rank == 1:
            deadline = time.monotonic() + 60
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            found = json.loads(path.read_text())
            said = run_as(ATTACKER, sys.executable, "-c", INTRUDING, path, str(found["port"]),
                          f"/proc/{ranks[0].pid}/fd", cwd="/", env=environment(shared / f"home-{ATTACKER}"))
            assert said.returncode == 0, said.stderr
            assert "unreadable" in said.stdout
            assert "memory" not in said.stdout
            assert ("spoke" in said.stdout) == bool(found["port"])
        ranks.append(subprocess.Popen(
            command_as(VICTIM, sys.executable, "-c", JOINING, str(path)), cwd="/", text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=environment(home, **variables(rank, 2, 1))))
    for process in ranks:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert json.loads(out.splitlines()[-1])[1:3] == [11.0, 1]
