import importlib.util
import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedbox.models.boxes import Overlap, aligned_iou, area, batched_nms, clip, convert, nms, pairwise_iou
from fedbox.models.errors import ModelError

KINDS = get_args(Overlap)
corner = st.integers(0, 12)
box = st.tuples(corner, corner, corner, corner)  # degenerate ones among them
real = st.tuples(corner, corner, st.integers(1, 9), st.integers(1, 9)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


def tensor(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def plain_iou(a: Any, b: Any) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    sizes = sum(max(c[2] - c[0], 0) * max(c[3] - c[1], 0) for c in (a, b))
    return shared / (sizes - shared) if sizes > shared else 0.0


def plain_nms(boxes: Any, scores: Any, labels: Any, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(labels[i] != labels[j] or plain_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def test_area_and_clip_by_hand() -> None:
    boxes = tensor([[1, 2, 4, 6], [3, 3, 3, 9], [5, 5, 2, 8], [-4, -1, 20, 30], [-9, 1, -2, 3], [11, 9, 14, 30]])
    assert area(boxes).tolist() == [12, 0, 0, 24 * 31, 14, 63]
    clipped = clip(boxes, height=8, width=10)
    assert clipped[3].tolist() == [0, 0, 10, 8]
    assert area(clipped).tolist() == [12, 0, 0, 80, 0, 0]


def test_convert_by_hand() -> None:
    same = {"xyxy": [[2, 3, 8, 11]], "xywh": [[2, 3, 6, 8]], "cxcywh": [[5, 7, 6, 8]]}
    for source, given_ in same.items():
        for target, wanted in same.items():
            assert convert(tensor(given_), source, target).tolist() == wanted, (source, target)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "two", "wanted"),
    [
        # Halves overlap: shared 2, union 6, hull 3 x 2, offset of centres 1, same shape.
        ((0, 0, 2, 2), (1, 0, 3, 2), (1 / 3, 1 / 3, 1 / 3 - 1 / 13, 1 / 3 - 1 / 13)),
        # Apart: union 2, hull 4 x 1, offset 3.
        ((0, 0, 1, 1), (3, 0, 4, 1), (0, -0.5, -9 / 17, -9 / 17)),
        ((1, 2, 5, 4), (1, 2, 5, 4), (1, 1, 1, 1)),
        # One within the other, same centre: only the shapes differ (4 : 2 and 2 : 2).
        ((0, 0, 4, 2), (1, 0, 3, 2), (0.5, 0.5, 0.5, None)),
    ],
)
def test_overlaps_by_hand(one: Any, two: Any, wanted: Any) -> None:
    if wanted[3] is None:
        v = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
        wanted = (*wanted[:3], 0.5 - v / (0.5 + v) * v)
    for kind, value in zip(KINDS, wanted, strict=True):
        assert aligned_iou(tensor([one]), tensor([two]), kind).item() == pytest.approx(value, abs=1e-12), kind
        assert aligned_iou(tensor([two]), tensor([one]), kind).item() == pytest.approx(value, abs=1e-12), kind


@given(st.lists(box, max_size=6), st.lists(box, max_size=6))
@settings(max_examples=60, deadline=None)
def test_pairwise_iou_equals_the_plain_one(one: Any, two: Any) -> None:
    found = pairwise_iou(tensor(one), tensor(two))
    assert found.shape == (len(one), len(two))
    assert found.tolist() == [[pytest.approx(plain_iou(a, b), abs=1e-12) for b in two] for a in one]


@given(st.lists(st.tuples(box, box), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_overlaps_keep_their_bounds_and_order_and_have_finite_gradients(pairs: Any) -> None:
    for dtype in (torch.float32, torch.float64):
        one = tensor([a for a, _ in pairs]).to(dtype).requires_grad_()
        two = tensor([b for _, b in pairs]).to(dtype)
        values = {kind: aligned_iou(one, two, kind) for kind in KINDS}
        assert torch.allclose(values["iou"], pairwise_iou(one, two).diagonal())
        for kind, value in values.items():
            assert ((value >= -2.000001) & (value <= 1.000001)).all()
            assert (value <= values["iou"] + 1e-6).all(), kind
            (gradient,) = torch.autograd.grad(value.sum(), one)
            assert gradient.isfinite().all(), kind


@given(st.lists(st.tuples(real, real), min_size=1, max_size=3))
@settings(max_examples=12, deadline=None)
def test_gradients_are_those_of_finite_differences(pairs: Any) -> None:
    # Off the kinks, where sides coincide: the second boxes move by fractions that differ for every side.
    two = tensor([b for _, b in pairs]) + tensor([0.31, 0.23, 0.47, 0.39])
    one = tensor([a for a, _ in pairs]).requires_grad_()
    for kind in ("iou", "giou", "diou"):
        assert torch.autograd.gradcheck(lambda x, kind=kind: aligned_iou(x, two, kind), (one,))

    start = one.detach().clone()  # gradcheck moves `one` itself
    iou = aligned_iou(start, two)

    def fixed_alpha(x: Tensor) -> Tensor:
        angle = [torch.atan((b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1])) for b in (x, start, two)]
        v, before = (4 / math.pi**2 * (angle[i] - angle[2]) ** 2 for i in (0, 1))
        return aligned_iou(x, two, "diou") - before / (1 - iou + before) * v

    assert torch.autograd.gradcheck(fixed_alpha, (one,))
    found, wanted = (torch.autograd.grad(f.sum(), one)[0] for f in (aligned_iou(one, two, "ciou"), fixed_alpha(one)))
    assert torch.allclose(found, wanted, rtol=0, atol=1e-10)


def test_disjoint_boxes_are_pulled_together_by_all_but_iou() -> None:
    one, two = tensor([[0, 0, 2, 2]]).requires_grad_(), tensor([[8, 0, 10, 2]])
    for kind in KINDS:
        (gradient,) = torch.autograd.grad(aligned_iou(one, two, kind).sum(), one)
        assert (gradient[0, 0] + gradient[0, 2] > 0) == (kind != "iou"), kind


@given(
    st.lists(st.tuples(box, st.integers(0, 5), st.integers(0, 2)), max_size=25),
    st.sampled_from([0.0, 0.25, 0.5, 0.65, 1.0]),
    st.sampled_from([1, 3, 512]),
)
@settings(max_examples=150, deadline=None)
def test_nms_equals_the_plain_one(rows: Any, threshold: float, block: int) -> None:
    boxes, scores, labels = ([row[i] for row in rows] for i in range(3))
    values, kinds = torch.tensor(scores, dtype=torch.float64), torch.tensor(labels, dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedbox.models.boxes.BLOCK", block)
        found = batched_nms(tensor(boxes), values, kinds, threshold)
        alone = nms(tensor(boxes), values, threshold)
    assert found.dtype == torch.int64
    assert found.tolist() == plain_nms(boxes, scores, labels, threshold)
    assert alone.tolist() == plain_nms(boxes, scores, [0] * len(boxes), threshold)


def test_nms_of_a_chain_and_of_ties_by_hand() -> None:
    # Neighbours overlap by 6 / 10: the second falls to the first, so it cannot suppress the third.
    chain = tensor([[0, 0, 8, 1], [2, 0, 10, 1], [4, 0, 12, 1]])
    assert nms(chain, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]
    assert nms(chain, torch.tensor([0.5, 0.5, 0.5]), 0.5).tolist() == [0, 2]
    assert nms(chain, torch.tensor([0.5, 0.9, 0.5]), 0.5).tolist() == [1]
    assert nms(chain, torch.tensor([0.9, 0.8, 0.7]), 0.6).tolist() == [0, 1, 2]
    assert batched_nms(chain, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0]), 0.34).tolist() == [0, 1, 2]


def test_nms_of_a_thousand_boxes_is_right() -> None:
    draw = torch.Generator().manual_seed(0)
    corners = torch.rand(1000, 2, generator=draw) * 100
    boxes = torch.cat((corners, corners + 5 + 30 * torch.rand(1000, 2, generator=draw)), dim=1).double()
    scores, labels = torch.rand(1000, generator=draw), torch.randint(0, 3, (1000,), generator=draw)
    found = batched_nms(boxes, scores, labels, 0.5)
    assert found.tolist() == plain_nms(boxes.tolist(), scores.tolist(), labels.tolist(), 0.5)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="needs torchvision, which is optional")
def test_torchvision_agrees() -> None:
    try:
        from torchvision import ops  # type: ignore[import-untyped, unused-ignore, import-not-found]
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision does not import beside this torch: {error}")
    draw = torch.Generator().manual_seed(1)
    corners = torch.rand(300, 2, generator=draw) * 100
    boxes = torch.cat((corners, corners + 5 + 30 * torch.rand(300, 2, generator=draw)), dim=1)
    scores, labels = torch.rand(300, generator=draw), torch.randint(0, 3, (300,), generator=draw)
    assert torch.allclose(pairwise_iou(boxes, boxes), ops.box_iou(boxes, boxes), atol=1e-6)
    assert nms(boxes, scores, 0.5).tolist() == ops.nms(boxes, scores, 0.5).tolist()
    assert batched_nms(boxes, scores, labels, 0.5).tolist() == ops.batched_nms(boxes, scores, labels, 0.5).tolist()


def test_bad_input_is_told() -> None:
    boxes, scores = tensor([[0, 0, 1, 1]]), torch.ones(1)
    cases: tuple[tuple[Callable[[], Tensor], str], ...] = (
        (lambda: area(torch.zeros(3)), r"\[3\]; wanted floating-point \[n, 4\]"),
        (lambda: area(torch.zeros(2, 4, dtype=torch.int64)), "int64"),
        (lambda: convert(boxes, "xxyy", "xyxy"), "xxyy.*Allowed: xyxy"),  # type: ignore[arg-type]
        (lambda: aligned_iou(boxes, boxes, "ciuo"), "Did you mean 'ciou'"),  # type: ignore[arg-type]
        (lambda: aligned_iou(boxes, tensor([])), "one shape"),
        (lambda: nms(boxes, torch.ones(2), 0.5), r"wanted \[1\]"),
        (lambda: batched_nms(boxes, scores, torch.ones(3), 0.5), r"wanted \[1\]"),
        (lambda: nms(boxes, scores * torch.nan, 0.5), "NaN"),
    )
    for call, words in cases:
        with pytest.raises(ModelError, match=words):
            call()
