"""Batches: pinned where they are sent to a GPU, and unpacked as mmcv would unpack them.

Pinning itself needs CUDA. So the one thing replaced here is ``torch.Tensor.pin_memory``, by a copy that is recorded;
torch's own walk over a batch decides what is pinned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("mmdet")
import torch  # noqa: E402 (after the check that the training stack is there)
from mmcv import parallel  # noqa: E402
from mmcv.parallel import DataContainer  # noqa: E402
from mmdet.core import BitmapMasks  # noqa: E402
from torch.utils.data._utils.pin_memory import pin_memory  # noqa: E402

from ecm_cluster.node.mmdet_trainer import batches  # noqa: E402
from ecm_cluster.node.mmdet_trainer.building import ShieldedLoader  # noqa: E402

SAMPLES_PER_GPU = 3


class Samples(torch.utils.data.Dataset):
    """As mmdet's pipelines make them: padded and stacked, listed, left on the CPU; without a container, nested."""

    def __len__(self) -> int:
        return SAMPLES_PER_GPU

    def __getitem__(self, i: int) -> dict[str, Any]:
        boxes = torch.rand(i + 1, 4)
        return {"img": DataContainer(torch.rand(3, 8 + i, 8), stack=True, padding_value=7),
                "gt_bboxes": DataContainer(boxes),
                "gt_masks": DataContainer(BitmapMasks(np.ones((1, 8, 8), np.uint8), 8, 8), cpu_only=True),
                "img_metas": DataContainer({"scale": torch.ones(4)}, cpu_only=True),
                "proposals": DataContainer(torch.rand(2, 5), stack=True, pad_dims=None),
                "index": torch.tensor(i),
                "views": [torch.rand(3, 4, 4), DataContainer(torch.rand(2, 2), stack=True, pad_dims=1)]}


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The pinned tensors."""
    made: list[torch.Tensor] = []

    def record(tensor: torch.Tensor, device: Any = None) -> torch.Tensor:
        made.append(tensor.clone())
        return made[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", record)
    return made


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


@pytest.mark.parametrize("workers", [0, 1])
def test_every_tensor_that_is_sent_to_the_device_is_pinned_and_no_other(pinned, workers):
    loader = ShieldedLoader(Samples(), batch_size=SAMPLES_PER_GPU, num_workers=workers,
                    collate_fn=lambda samples: batches.collate(samples, SAMPLES_PER_GPU))
    batch = pin_memory(next(iter(loader)))
    _, named = batches.unpack((), batch, torch.device("cpu"))
    metas = named.pop("img_metas")
    sent = tensors(named)
    assert len(sent) == 8  # img, 3 gt_bboxes, proposals, index, 2 views
    assert {t.data_ptr() for t in sent} == {t.data_ptr() for t in pinned}
    assert len(metas) == SAMPLES_PER_GPU and not {t.data_ptr() for t in tensors(metas)} & {
        t.data_ptr() for t in pinned}


def test_a_pinned_batch_is_unpacked_to_what_mmcv_makes_of_it(pinned):
    samples = [Samples()[i] for i in range(SAMPLES_PER_GPU)]
    expected = parallel.scatter(parallel.collate(samples, SAMPLES_PER_GPU), [-1])[0]
    _, named = batches.unpack((), pin_memory(batches.collate(samples, SAMPLES_PER_GPU)), torch.device("cpu"))
    assert named.keys() == expected.keys()
    assert [type(v) for v in named.values()] == [type(v) for v in expected.values()]
    assert len(list(tensors(named))) == len(list(tensors(expected)))
    for mine, theirs in zip(tensors(named), tensors(expected)):
        assert torch.equal(mine, theirs)
    assert all(isinstance(mask, BitmapMasks) for mask in named["gt_masks"])


def test_a_container_keeps_how_it_is_to_be_padded(pinned):
    batch = pin_memory(batches.collate([Samples()[0]], 1))
    assert (batch["img"].stack, batch["img"].padding_value, batch["img"].cpu_only) == (True, 7, False)
    assert batch["img_metas"].cpu_only


def test_copies_are_not_waited_for(monkeypatch):
    asked: list[Any] = []
    original = torch.Tensor.to

    def record(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        asked.append(kwargs.get("non_blocking"))
        return original(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", record)
    _, named = batches.unpack((), batches.collate([Samples()[0]], 1), torch.device("meta"))
    assert asked and all(asked)
    assert named["img"].device.type == "meta"


def test_tensors_reach_the_device_wherever_the_batch_holds_them():
    batch = {"img": [torch.zeros(1, 3, 4, 4)], "img_metas": [[{"flip": False}]], "proposals": (torch.ones(2, 5),)}
    moved = batches.moved(batch, torch.device("meta"))
    assert moved["img"][0].is_meta and moved["proposals"][0].is_meta
    assert moved["img_metas"] == batch["img_metas"] and not batch["img"][0].is_meta
