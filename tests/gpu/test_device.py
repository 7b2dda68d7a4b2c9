"""Single parts on the device: copies for checkpoints, process groups, the detector in bfloat16, the assigner."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
import torch
from small import CLASSES, ROOT

from ecm_cluster.mmconfig import config
from ecm_cluster.node.training.saver import SharedCopy

ASSIGNER = {"pos_iou_thr": 0.6, "neg_iou_thr": 0.3, "min_pos_iou": 0.3}


# ------------------------------------------------------------------------------------- copies for checkpoints


def state_on(device: str) -> dict[str, torch.Tensor]:
    """Tensors of many types and sizes; two share memory."""
    generator = torch.Generator().manual_seed(1)
    big = torch.randn(1 << 20, generator=generator).to(device)
    made = {"big": big, "view": big[5:50], "empty": torch.empty(0, device=device), "host": torch.arange(7),
            "flag": torch.tensor(True, device=device), "count": torch.arange(1000, device=device)}
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        made[str(dtype)] = torch.randn(12345, generator=generator).to(device, dtype)
    return made


def holds_the_bits_of(copy: SharedCopy, state: dict[str, torch.Tensor]) -> None:
    _, spans = copy.take(state)
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in state.values()}
    assert len(spans) == len(storages) == len(state) - 1
    assert copy._bytes is not None
    for storage, (offset, size) in zip(storages.values(), spans):
        there = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).cpu()
        assert torch.equal(copy._bytes[offset:offset + size], there)


def test_a_checkpoints_copy_holds_the_same_bits(device):
    copy = SharedCopy()
    holds_the_bits_of(copy, state_on(device))
    assert copy._pinned == (device == "cuda")
    more = {**state_on(device), "more": torch.ones(3 << 20, device=device)}  # it grows, and is used again
    holds_the_bits_of(copy, more)


def test_a_copy_into_memory_that_cannot_be_pinned_is_the_same_and_leaves_no_error_pending(device, needs_gpu):
    copy, state = SharedCopy(), state_on(device)
    copy._reserve(1 << 25, pin=False)
    assert copy._bytes is not None
    # memory can be registered once only, so the copy's own attempt fails
    assert int(torch.cuda.cudart().cudaHostRegister(copy._bytes.data_ptr(), copy.size, 0)) == 0
    torch.cuda.synchronize()
    holds_the_bits_of(copy, state)
    assert not copy._pinned
    assert torch.ones(8, device=device).sum().item() == 8, "a kernel launched after it"
    torch.cuda.cudart().cudaHostUnregister(copy._bytes.data_ptr())


# ------------------------------------------------------------------------------------- process groups

JOINED = """
import sys
from pathlib import Path
import torch, torch.distributed as dist
from ecm_cluster.node import rendezvous, world

rank, size, device, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
place = world.RankInfo(rank=rank, world_size=size, local_rank=rank, node=0, nodes=1, job_id="1", restart=0,
                    cluster="local")
if device == "cuda":
    torch.cuda.set_device(world.device_index(place, torch.cuda.device_count()))
group = rendezvous.join(place, file, device, timeout=60.0)
assert dist.get_backend() == ("nccl" if device == "cuda" else "gloo"), dist.get_backend()
total, agreed = torch.full((4,), rank + 1.0, device=device), torch.tensor([rank])
dist.all_reduce(total)
dist.all_reduce(agreed, op=dist.ReduceOp.MAX, group=group)
assert total.tolist() == [size * (size + 1) / 2] * 4 and agreed.item() == size - 1
dist.barrier(group)
dist.destroy_process_group()
"""


def join(folder, size: int, device: str) -> None:
    ranks = [subprocess.Popen([sys.executable, "-c", JOINED, str(rank), str(size), device, str(folder / "rendezvous")],
                              cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
             for rank in range(size)]
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * size, "\n".join(said)


def test_a_group_of_one_rank_reduces_on_the_device_and_agrees_on_the_cpu(tmp_path, device):
    join(tmp_path, 1, device)


def test_a_group_of_two_ranks_reduces_on_the_devices_and_agrees_on_the_cpu(tmp_path, device, two_devices):
    join(tmp_path, 2, device)


# ------------------------------------------------------------------------------------- bfloat16


@pytest.fixture
def detector_and_batch(small_data, device):
    """The demo's detector, and a batch of its data, on the device."""
    from mmcv import Config
    from mmcv.parallel import collate
    from mmcv.parallel.scatter_gather import scatter_kwargs
    from mmdet.datasets import build_dataset
    from mmdet.models import build_detector

    import mmdet_ext.register  # noqa: F401

    torch.manual_seed(0)
    cfg = config.rewrite_data_root(config.read(str(ROOT / "configs/demo.py")), str(small_data))
    cfg = Config(config.apply_options(cfg, {"model.roi_head.bbox_head.num_classes": CLASSES,
                                            "model.roi_head.mask_head.num_classes": CLASSES}))
    dataset = build_dataset(cfg.data.train)
    batch = partial(collate, samples_per_gpu=4)([dataset[i] for i in range(4)])
    unpacked = scatter_kwargs((batch,), {}, [-1], dim=0)[0][0][0]
    detector = build_detector(cfg.model)
    detector.init_weights()

    def moved(value):
        if isinstance(value, torch.Tensor):
            return value.to(device)
        return [moved(v) for v in value] if isinstance(value, list) else value

    return detector.to(device).train(), {key: moved(value) for key, value in unpacked.items()}


def test_in_bfloat16_the_detector_up_to_its_proposals_comes_near_float32(detector_and_batch, device, say):
    detector, batch = detector_and_batch
    found = {}
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=enabled):
            features = detector.extract_feat(batch["img"])
            losses = detector.rpn_head.forward_train(  # not the proposals: mmcv has no NMS in bfloat16
                features, batch["img_metas"], batch["gt_bboxes"], gt_labels=None,
                proposal_cfg=None)
        assert (features[0].dtype == torch.bfloat16) == enabled
        total = sum(sum(value) for value in losses.values())
        detector.zero_grad()
        total.backward()
        gradients = [p.grad for p in detector.backbone.parameters()]
        assert all(g.isfinite().all() for g in gradients)
        found[enabled] = total.item()
    say("measured", f"RPN loss in bfloat16 {found[True]:.4f}, in float32 {found[False]:.4f}")
    assert found[True] == pytest.approx(found[False], rel=0.02)


def test_whether_the_whole_detector_runs_in_bfloat16_is_said(detector_and_batch, device, say):
    detector, batch = detector_and_batch
    try:
        with torch.autocast(device, dtype=torch.bfloat16):
            total = detector.train_step(batch, None)["loss"]
    except RuntimeError as error:
        # not a failure of ours: mmcv 1.7 has its operators for float and half, and its own mixed precision is fp16
        assert "BFloat16" in str(error) or "dtype" in str(error) or "type" in str(error)
        say("not checked", f"training in bfloat16, as an operator of mmcv refuses it: {str(error).splitlines()[0]}")
        return
    assert total.isfinite()
    total.backward()


# ------------------------------------------------------------------------------------- the assigner


def boxes(n: int, seed: int, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 1000
    return torch.cat([corner, corner + 1 + torch.rand(n, 2, generator=generator) * 200], dim=1).to(device)


def assigned(kind: str, *given: torch.Tensor, **options):
    from mmdet.core.bbox import build_assigner

    import mmdet_ext.register  # noqa: F401

    return build_assigner({"type": kind, **ASSIGNER, **options}).assign(*given)


def same(one, other) -> bool:
    return torch.equal(one.gt_inds.cpu(), other.gt_inds.cpu()) \
        and torch.equal(one.max_overlaps.cpu(), other.max_overlaps.cpu())


def test_the_memory_safe_assigner_assigns_as_mmdets_own_with_a_fraction_of_its_memory(device, say):
    n, k = (200_000, 400) if device == "cuda" else (20_000, 40)
    if device == "cuda" and torch.cuda.mem_get_info()[0] < 6 << 30:
        pytest.skip("mmdet's own assigner needs 6 GB of free GPU memory in this case")
    given, found, peak = (boxes(n, 0, device), boxes(k, 1, device)), {}, {}
    for kind, options in (("MaxIoUAssigner", {}), ("MemorySafeMaxIoUAssigner", {"max_pairs": n * k // 16})):
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        found[kind] = assigned(kind, *given, **options)
        if device == "cuda":
            peak[kind] = (torch.cuda.max_memory_allocated() - before) / 1e6
    assert same(*found.values()) and (found["MaxIoUAssigner"].gt_inds > 0).any()
    if device != "cuda":
        say("not checked", "the assigner's peak of GPU memory")
        return
    say("measured", f"assigning {n} boxes to {k} objects: peak {peak['MaxIoUAssigner']:.0f} MB by mmdet, "
        f"{peak['MemorySafeMaxIoUAssigner']:.0f} MB memory-safe")
    assert peak["MaxIoUAssigner"] >= 3 * peak["MemorySafeMaxIoUAssigner"]


def test_an_assignment_for_which_the_gpu_has_no_memory_is_made_on_the_cpu(device, needs_gpu):
    given = boxes(200_000, 0, device), boxes(2_000, 1, device)
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (64 << 20)) / total)
    try:
        with pytest.warns(UserWarning, match="out of GPU memory"):
            result = assigned("MemorySafeMaxIoUAssigner", *given)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result.gt_inds.is_cuda
    assert same(result, assigned("MaxIoUAssigner", *(g.cpu() for g in given)))
