"""The assigner that does not run out of memory assigns as mmdet's own does."""

from __future__ import annotations

import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mmdet")

from mmdet.core.bbox import build_assigner  # noqa: E402
from mmdet.core.bbox.iou_calculators import BboxOverlaps2D  # noqa: E402

import mmdet_ext.register  # noqa: E402, F401

SETTINGS = dict(pos_iou_thr=0.6, neg_iou_thr=0.3, min_pos_iou=0.3, ignore_iof_thr=0.5)


def boxes(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 60
    return torch.cat([corner, corner + 1 + torch.rand(n, 2, generator=generator) * 40], dim=1)


def same(one, other) -> bool:
    return (
        one.num_gts == other.num_gts
        and torch.equal(one.gt_inds, other.gt_inds)
        and torch.equal(one.max_overlaps, other.max_overlaps)
        and (one.labels is other.labels is None or torch.equal(one.labels, other.labels))
    )


def assigner(**kwargs):
    return build_assigner(dict(type="MemorySafeMaxIoUAssigner", **SETTINGS, **kwargs))


@pytest.mark.parametrize("max_pairs", [1, 700, 1 << 24])
@pytest.mark.parametrize("wrt_candidates", [True, False])
def test_it_assigns_as_mmdets_own_does_regardless_of_the_pieces(max_pairs, wrt_candidates):
    given = boxes(300, 0), boxes(23, 1), boxes(4, 2), torch.arange(23) % 5
    stock = build_assigner(dict(type="MaxIoUAssigner", ignore_wrt_candidates=wrt_candidates, **SETTINGS))
    ours = assigner(max_pairs=max_pairs, ignore_wrt_candidates=wrt_candidates)
    result = ours.assign(*given)
    assert same(result, stock.assign(*given)) and (result.gt_inds > 0).any() and (result.gt_inds == -1).any()


@pytest.mark.parametrize(("n", "k"), [(0, 3), (5, 0), (0, 0)])
def test_no_boxes_or_no_objects_are_assigned_as_by_mmdet(n, k):
    given = boxes(n, 0), boxes(k, 1), None, torch.zeros(k, dtype=torch.long)
    stock = build_assigner(dict(type="MaxIoUAssigner", **SETTINGS))
    assert same(assigner(max_pairs=1).assign(*given), stock.assign(*given))


def test_the_pieces_are_as_small_as_asked_for():
    sizes = []

    class Recording(BboxOverlaps2D):
        def __call__(self, first, second, mode="iou", is_aligned=False):
            sizes.append(len(first) * len(second))
            return super().__call__(first, second, mode, is_aligned)

    ours = assigner(max_pairs=700)
    ours.iou_calculator.calculator = Recording()
    ours.assign(boxes(300, 0), boxes(23, 1))
    assert max(sizes) <= 700 and sum(sizes) == 300 * 23


def test_the_cpu_takes_over_when_the_gpu_is_out_of_memory():
    class OutOfMemory(BboxOverlaps2D):
        """A full GPU stands in: the first and the third call find no memory."""

        calls = 0

        def __call__(self, *args, **kwargs):
            self.calls += 1
            if self.calls in (1, 3):
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().__call__(*args, **kwargs)

    ours = assigner()
    ours.iou_calculator.calculator = OutOfMemory()
    given = boxes(30, 0), boxes(5, 1), None, torch.arange(5)
    expected = build_assigner(dict(type="MaxIoUAssigner", **SETTINGS)).assign(*given)
    with pytest.warns(UserWarning, match="out of GPU memory when assigning 30 boxes to 5 objects"):
        assert same(ours.assign(*given), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once, not at every image
        assert same(ours.assign(*given), expected)


def test_other_errors_pass_through():
    with pytest.raises(AssertionError):
        assigner().assign(boxes(3, 0)[:, :3], boxes(2, 1))


def test_a_bound_below_one_is_refused():
    with pytest.raises(ValueError, match="invalid max_pairs: 0"):
        assigner(max_pairs=0)
