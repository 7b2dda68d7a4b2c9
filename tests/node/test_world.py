"""Who a task is, and how the tasks of an attempt find each other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small import ROOT

from ecm_cluster import files
from ecm_cluster.node import world

SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
         "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "77"}
LOCAL = {"SUBMITIT_LOCAL_JOB_ID": "4242", "SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_GLOBALID": "1",
         "SUBMITIT_LOCAL_LOCALID": "1", "SUBMITIT_LOCAL_NODEID": "0", "SUBMITIT_LOCAL_JOB_NUM_NODES": "1"}
PLACE = world.Place(rank=5, world_size=8, local_rank=1, node=1, nodes=2, job_id="77", restart=0, cluster="slurm")


def place(monkeypatch: pytest.MonkeyPatch, *environments: dict[str, str]) -> world.Place:
    for variables in environments:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
    return world.identify()


def test_a_task_of_slurm_knows_its_place(monkeypatch):
    assert place(monkeypatch, SLURM) == PLACE


@pytest.mark.parametrize(("count", "restart"), [("", 0), ("0", 0), ("3", 3)])
def test_each_restart_of_a_job_is_another_identity(monkeypatch, count, restart):
    found = place(monkeypatch, SLURM, {"SLURM_RESTART_COUNT": count})
    assert found.restart == restart
    assert found.identity == f"slurm:77:{restart}"


def test_all_tasks_of_a_start_share_an_identity_that_no_other_start_has():
    same = {replace(PLACE, rank=r, local_rank=r, node=n).identity for r in range(3) for n in range(2)}
    assert len(same) == 1
    others = {replace(PLACE, **{k: v}).identity for k, v in {"job_id": "78", "restart": 1, "cluster": "local"}.items()}
    assert len(others | same) == 4


def test_a_task_of_the_local_controller_knows_its_place_even_within_a_job_of_slurm(monkeypatch):
    expected = world.Place(rank=1, world_size=2, local_rank=1, node=0, nodes=1, job_id="4242", restart=0,
                           cluster="local")
    assert place(monkeypatch, LOCAL) == expected
    assert place(monkeypatch, SLURM, LOCAL) == expected


def test_libraries_that_read_rank_variables_find_them():
    assert world.export(PLACE) == {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}


def test_a_driver_is_gone_when_its_process_is(monkeypatch):
    assert not world.driver_is_gone(), "there is none on Slurm"
    monkeypatch.setenv(world.DRIVER_ENV, str(os.getpid()))
    assert not world.driver_is_gone()
    ended = subprocess.Popen(["true"])
    ended.wait()
    monkeypatch.setenv(world.DRIVER_ENV, str(ended.pid))
    assert world.driver_is_gone()


# ---------------------------------------------------------------------------------------------- addresses


def test_on_one_node_the_loopback_is_enough():
    assert world.addresses(single_node=True) == ["127.0.0.1"]


def test_for_other_nodes_the_loopback_comes_last_and_nothing_twice():
    found = world.addresses(single_node=False)
    assert found
    assert len(set(found)) == len(found)
    loops = [a.startswith("127.") for a in found]
    assert loops == sorted(loops)
    assert {address for _, address in world._interfaces()} <= set(found)


def test_a_host_name_that_resolves_to_loopback_does_not_hide_the_interfaces(monkeypatch):
    """As Debian and Ubuntu set it up; the interfaces here are made up, as no test can add one."""
    monkeypatch.setattr(world.socket, "getaddrinfo", lambda *a: [(2, 1, 6, "", ("127.0.1.1", 0))])
    interfaces = [("lo", "127.0.0.1"), ("ib0", "10.1.0.7"), ("eth0", "192.168.0.7")]
    monkeypatch.setattr(world, "_interfaces", lambda: interfaces)
    assert world.addresses(single_node=False) == ["10.1.0.7", "192.168.0.7", "127.0.1.1", "127.0.0.1"]


def test_a_host_name_that_resolves_nowhere_is_no_end(monkeypatch):
    def fail(*_: object) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(world.socket, "getaddrinfo", fail)
    monkeypatch.setattr(world, "_interfaces", lambda: [])
    assert world.addresses(single_node=False) == ["127.0.0.1"]


def test_interfaces_have_names_and_addresses():
    found = dict(world._interfaces())
    assert found.get("lo") == "127.0.0.1"


# ---------------------------------------------------------------------------------------------- rendezvous


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_the_first_address_that_answers_is_taken(listening, tmp_path):
    path = tmp_path / "rendezvous.json"
    files.write_json(path, {"addresses": ["127.255.255.1", "127.0.0.1"], "port": listening})
    address, port = world._await_address(path, 30)
    assert port == listening
    assert address in ("127.255.255.1", "127.0.0.1")  # Linux routes all of 127.0.0.0/8 to loopback
    assert world._interface_towards("127.0.0.1", listening) == "lo"


def test_a_file_that_is_torn_or_names_a_dead_port_is_waited_out(listening, tmp_path):
    path = tmp_path / "rendezvous.json"
    path.write_text('{"addresses": ["127.0')

    def go_on() -> None:
        time.sleep(0.2)
        files.write_json(path, {"addresses": ["127.0.0.1"], "port": dead})
        time.sleep(0.2)
        files.write_json(path, {"addresses": ["127.0.0.1"], "port": listening})

    dead = closed_port()
    thread = threading.Thread(target=go_on)
    thread.start()
    assert world._await_address(path, 30) == ("127.0.0.1", listening)
    thread.join()


def test_a_rank_0_that_never_comes_is_named_by_its_file(tmp_path):
    with pytest.raises(TimeoutError, match=r"within 0 s through .*0001\.rendezvous\.json"):
        world._await_address(tmp_path / "0001.rendezvous.json", 0.1)


JOINING = """
import json, os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from ecm_cluster.node.world import identify, join

place = identify()
group = join(place, Path(sys.argv[1]), "cpu", 60.0)
total = torch.tensor([float(10 ** place.rank)])
dist.all_reduce(total)
most = torch.tensor([place.rank])
dist.all_reduce(most, op=dist.ReduceOp.MAX, group=group)
print(json.dumps([place.rank, total.item(), most.item(), dist.get_backend(), dist.get_world_size(),
                  os.environ.get("GLOO_SOCKET_IFNAME")]), flush=True)
dist.barrier(group)
dist.destroy_process_group()
"""


def joined(path: Path, size: int, nodes: int) -> list[list]:
    """Start so many ranks, the first one last, and return what each saw."""
    ranks = []
    for rank in reversed(range(size)):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "1", "SLURM_NTASKS": str(size),
               "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank % nodes),
               "SLURM_LOCALID": str(rank // nodes)}
        ranks.append(subprocess.Popen([sys.executable, "-c", JOINING, str(path)], cwd=ROOT, env=env, text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    seen = []
    for process in ranks:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        seen.append(json.loads(out.splitlines()[-1]))
    return sorted(seen)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "nodes", "attempts"), [(3, 1, 1), (2, 2, 2)])
def test_ranks_find_each_other_through_a_file_and_reduce_in_two_groups(tmp_path, size, nodes, attempts):
    total = float(sum(10 ** rank for rank in range(size)))
    for attempt in range(1, attempts + 1):  # the second beside the left-over file of the first
        seen = joined(tmp_path / f"{attempt:04d}.rendezvous.json", size, nodes)
        assert [s[:5] for s in seen] == [[rank, total, size - 1, "gloo", size] for rank in range(size)]
        assert len({s[5] for s in seen}) == 1, "all ranks take the same interface"
    assert len({json.loads(p.read_text())["port"] for p in tmp_path.iterdir()}) == attempts
