"""No two ranks of a node take the same GPU, however Slurm shows the GPUs to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes.gpu_node import build_driver
from small import ROOT

from ecm_cluster.attempts.failures import NotStartable
from ecm_cluster.node import world
from ecm_cluster.node.gpu import devices
from ecm_cluster.node.world import RankInfo

PLACE = RankInfo(rank=5, world_size=8, local_rank=5, node=0, nodes=1, job_id="77", restart=0, cluster="slurm")


@pytest.mark.parametrize(("visible", "index"), [(1, 0), (8, 5), (4, 1), (6, 5), (2, 1)])
def test_a_rank_that_asks_nobody_takes_a_gpu_that_it_sees(visible, index):
    assert world.device_index(PLACE, visible) == index


def test_a_rank_that_sees_no_gpu_says_where_and_what_to_do(monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n3")
    with pytest.raises(NotStartable, match="^n3: no GPU is visible to rank 5; ask for one GPU for each rank"):
        world.device_index(PLACE, 0)


ALL = [list("ABCDEFGH")] * 8
OWN = [[uuid] for uuid in "ABCDEFGH"]
BLOCKS = [list("ABCD")] * 4 + [list("EFGH")] * 4  # --gpu-bind=closest, tasks dealt out block by block
CYCLIC = [list("ABCD"), list("EFGH")] * 4  # the same, tasks dealt out in turn


@pytest.mark.parametrize(("seen", "indices"), [
    (ALL, list(range(8))), (OWN, [0] * 8), (BLOCKS, [0, 1, 2, 3] * 2), (CYCLIC, [0, 1, 2, 3, 1, 0, 3, 2])])
def test_each_rank_gets_a_gpu_of_its_own(seen, indices):
    assert devices.assign(seen) == indices or seen is CYCLIC
    taken = [gpus[index] for gpus, index in zip(seen, devices.assign(seen) or [])]
    assert sorted(taken) == list("ABCDEFGH")


@pytest.mark.parametrize("seen", [[["A"]] * 2, [list("AB")] * 3, [["A"], ["A"], list("BC")], [["A"], []]])
def test_too_few_gpus_are_not_shared(seen):
    assert devices.assign(seen) is None


@given(st.lists(st.sets(st.sampled_from("ABCDEF"), min_size=1).map(sorted), max_size=6))
def test_an_assignment_is_found_if_there_is_one(seen):
    """Against trying all: Hall's theorem, over every set of ranks."""
    chosen = devices.assign(seen)
    groups = [[rank for rank in range(len(seen)) if mask >> rank & 1] for mask in range(1, 1 << len(seen))]
    possible = all(len({gpu for rank in ranks for gpu in seen[rank]}) >= len(ranks) for ranks in groups)
    assert (chosen is not None) == possible
    if chosen is not None:
        taken = [gpus[index] for gpus, index in zip(seen, chosen)]
        assert len(set(taken)) == len(seen)


AGREEING = """
import json, sys
from pathlib import Path
from ecm_cluster.node.gpu import devices
from ecm_cluster.node.rendezvous import join, leave
from ecm_cluster.node.world import identify

place = identify()
group = join(place, Path(sys.argv[1]), "cpu", 60.0)
try:
    answer = devices.agree(place, int(sys.argv[2]), group)
except devices.NotStartable as error:
    answer = str(error)
print(json.dumps(answer), flush=True)
leave(group)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("seen", "answers"), [
    (["AB", "AB", "AB", "AB"], [0, 1, 0, 1]),  # two nodes of two ranks
    (["AB", "BA", "A", "B"], [1, 1, 0, 0]),
    (["A", "A", "AB", "B"], ["its 2 ranks see 1 GPUs between them; ask for one GPU for each rank", 0, 0])])
def test_ranks_tell_each_other_what_they_see(tmp_path, seen, answers):
    library = build_driver(tmp_path / "driver")
    ranks = []
    for rank, uuids in enumerate(seen):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "1", "SLURM_NTASKS": "4",
               "SLURM_JOB_NUM_NODES": "2", "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank // 2),
               "SLURM_LOCALID": str(rank % 2), "FAKE_CUDA_UUIDS": uuids, "LD_LIBRARY_PATH": str(library)}
        ranks.append(subprocess.Popen([sys.executable, "-c", AGREEING, str(tmp_path / "file"), str(len(uuids))],
                                      cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    said = []
    for process in ranks:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        said.append(json.loads(out.splitlines()[-1]))
    if isinstance(answers[0], str):
        assert answers[0] in said[0]
        assert answers[0] in said[1]
        assert said[2:] == answers[1:]
    else:
        assert said == answers


