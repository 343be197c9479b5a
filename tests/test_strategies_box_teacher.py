"""The teacher of boxes: how it follows, what it counts as a label, how good its labels are."""

from typing import Any

import numpy as np
import pytest
import torch
from boxes_for_tests import site_of
from torch import nn

from fedbox.models.detections import Detections
from fedbox.strategies import UnsuitableError
from fedbox.strategies.box_teacher import BoxTeacher, Quality, TeacherSettings, box_samples
from fedbox.strategies.site import Site
from fedbox.strategies.statistics import estimate


def _teacher(site: Site, **settings: float | str | None) -> BoxTeacher:
    checked = TeacherSettings.model_validate(settings)
    return BoxTeacher(site, box_samples(site.unlabelled, "test"), checked, steps=4)


def test_it_is_the_moving_average_of_its_student() -> None:
    site = site_of()
    teacher = _teacher(site, ema=0.9)
    average = site.flat.flat.clone()
    for step in range(3):
        site.flat.flat.add_(0.01 * (step + 1))
        teacher.follow()
        average = 0.9 * average + 0.1 * site.flat.flat
    assert torch.allclose(teacher.flat.flat, average, atol=1e-6)


@pytest.mark.parametrize(("settings", "new"), [({}, 1 - 0.999**4), ({"ema": None}, 0.5)])
def test_it_follows_as_slowly_as_in_the_paper_or_by_half_in_a_round(settings: dict[str, Any], new: float) -> None:
    site = site_of()
    teacher, start = _teacher(site, **settings), site.flat.flat.clone()
    site.flat.flat.add_(1.0)
    for _ in range(4):
        teacher.follow()
    moved = (teacher.flat.flat - start)[: site.flat.spans[next(iter(site.flat.spans))].stop]
    assert torch.allclose(moved, torch.full_like(moved, new), atol=1e-6)


def test_it_takes_over_running_statistics() -> None:
    site = site_of(**{"model.options": {"norm": "batch"}})
    teacher = _teacher(site, statistics="views")
    name, buffer = next((n, b) for n, b in site.model.named_buffers() if n.endswith("running_mean"))
    buffer.add_(3.0)
    teacher.follow()
    assert torch.equal(dict(teacher.flat.module.named_buffers())[name], buffer)


def _statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.named_buffers() if "running_" in name}


def test_or_has_those_of_the_images() -> None:
    """From the first image on, kept while it follows, and estimated again for both models at the end."""
    site = site_of(**{"model.options": {"norm": "batch"}})
    teacher = _teacher(site, ema=0.5)
    reference = site_of(**{"model.options": {"norm": "batch"}})
    estimate(reference.model, [reference.unlabelled], reference.batch_size)
    first = _statistics(reference.model)
    assert all(torch.equal(value, first[name]) for name, value in _statistics(teacher.flat.module).items())
    site.flat.flat.mul_(1.5)
    teacher.follow()
    assert all(torch.equal(value, first[name]) for name, value in _statistics(teacher.flat.module).items())
    for flat, factor in ((site.flat, 1.5), (teacher.flat, 1.25)):
        teacher.settle(flat)
        reference.flat.flat.copy_(site.flat.flat / 1.5 * factor)
        estimate(reference.model, [reference.unlabelled], reference.batch_size)
        for name, value in _statistics(reference.model).items():
            assert torch.allclose(_statistics(flat.module)[name], value, rtol=1e-4, atol=1e-6), name


def test_a_still_teacher_stays() -> None:
    site = site_of()
    samples = box_samples(site.unlabelled, "test")
    teacher = BoxTeacher(site, samples, TeacherSettings(), steps=4, still=True)
    before = teacher.flat.flat.clone()
    site.flat.flat.add_(1.0)
    teacher.follow()
    assert torch.equal(teacher.flat.flat, before)


def test_labels_are_what_reaches_the_threshold() -> None:
    boxes = torch.tensor([[0.0, 0, 8, 8], [1, 1, 9, 9], [2, 2, 9, 9]])
    found = [Detections(boxes, torch.tensor([0.9, 0.6, 0.59]), torch.tensor([1, 2, 3]), torch.ones(3))]
    ((kept, labels),) = _teacher(site_of(), high=0.6).reliable(found)
    assert labels.tolist() == [1, 2]
    assert torch.equal(kept, boxes[:2])


def test_no_detection_at_all_is_a_loss_with_a_gradient() -> None:
    """Scores of a fresh detector are near 0.002: above a threshold of 0.5 there is none, and all is background."""
    site = site_of()
    teacher = _teacher(site, low=0.5, high=0.9)
    batch = site.unlabelled.batch(torch.arange(4))
    images, pseudo = teacher.labelled(batch)
    assert [len(each.boxes) for each in pseudo] == [0, 0, 0, 0]
    assert images.shape == (4, 3, 64, 64)
    loss = teacher.loss(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert bool(site.flat.flat_grad.any())
    assert torch.isfinite(site.flat.flat_grad).all()


def test_without_boxes_the_place_teaches_nothing() -> None:
    site = site_of()
    samples = box_samples(site.unlabelled, "test")
    settings = TeacherSettings(low=0.0, high=0.0)
    teacher = BoxTeacher(site, samples, settings, steps=1, boxes=False)
    images, pseudo = teacher.labelled(site.unlabelled.batch(torch.arange(4)))
    predictions = site.model(images)
    whole = site.model.pseudo_loss(predictions, pseudo, 0.0, 0.0)  # type: ignore[operator]
    assert whole.box.item() > 0
    without = teacher.loss_of(predictions, pseudo).item()
    assert without == pytest.approx((whole.total - 3.0 * whole.box).item(), rel=1e-5)


def test_quality_counts_what_is_right() -> None:
    from fedbox.data.box_views import Targets

    quality = Quality()
    assert quality.metrics() == {}
    truth = Targets.of([(torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), torch.tensor([0, 1]))])
    crowd = Targets.of([(torch.tensor([[40.0, 0, 60, 60]]), torch.tensor([0]))])
    boxes = torch.tensor([[0.0, 0, 10, 9], [20, 20, 30, 30], [40, 40, 50, 50], [42, 0, 52, 10]])
    scores = torch.tensor([0.9, 0.8, 0.2, 0.7])
    found = [Detections(boxes, scores, torch.tensor([0, 0, 0, 0]), scores)]
    quality.add(found, truth, crowd, 0.5, [False])  # an image that nobody has annotated says nothing of right or wrong
    assert quality.metrics() == {"pseudo_per_image": 3.0}
    quality.add(found, truth, crowd, 0.5, [True])
    # Three reach the threshold: one is right, one has the wrong class, one lies in a crowd. One of two is found.
    assert quality.metrics() == {"pseudo_precision": 0.5, "pseudo_recall": 0.5, "pseudo_per_image": 3.0}


def test_crowds_move_along_into_the_weak_view() -> None:
    """All of an image is a crowd of every class: no pseudo-label in it is wrong."""
    site = site_of()
    samples = box_samples(site.unlabelled, "test")
    nothing = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    samples.truths = [nothing] * len(samples)
    for crowd, precise in ((False, 0.0), (True, None)):
        whole = torch.tensor([[0.0, 0, 64, 64]] * len(samples.classes)), torch.arange(len(samples.classes))
        samples.ignored = [whole if crowd else nothing] * len(samples)
        teacher = _teacher(site, low=0.0, high=0.0)
        teacher.labelled(site.unlabelled.batch(torch.arange(4)))
        found = teacher.quality.metrics()
        assert found["pseudo_per_image"] > 0
        assert found.get("pseudo_precision") == precise


def test_quality_is_silent_where_nothing_was_labelled_or_nothing_is_there() -> None:
    from fedbox.data.box_views import Targets

    none, box = torch.zeros(0, 4), torch.tensor([[0.0, 0, 10, 10]])
    label, score = torch.tensor([0]), torch.tensor([0.9])
    nothing = Targets.of([(none, label[:0])])
    quality = Quality()
    quality.add([Detections(none, score[:0], label[:0], score[:0])], Targets.of([(box, label)]), nothing, 0.5, [True])
    assert quality.metrics() == {"pseudo_recall": 0.0, "pseudo_per_image": 0.0}
    quality = Quality()
    quality.add([Detections(box, score, label, score)], nothing, nothing, 0.5, [True])
    assert quality.metrics() == {"pseudo_precision": 0.0, "pseudo_per_image": 1.0}


def test_steps_follow_the_configuration() -> None:
    assert site_of(**{"train.epochs": 3}).steps(12) == 6
    assert site_of(**{"train.steps": 5}).steps(12) == 5
    assert site_of(**{"train.steps": 5}).steps(12, epochs=1) == 2
    assert site_of().steps(12, batch_size=5) == 3
    assert site_of().steps(0) == 0
    # The count that `fit` really takes.
    for changes in ({"train.epochs": 2}, {"train.steps": 3}):
        site = site_of("server", **changes)
        assert site.fit(batch_size=5).steps == site.steps(len(site.labelled), batch_size=5)


def test_samples_without_boxes_are_refused() -> None:
    with pytest.raises(UnsuitableError, match="fedsto needs images with boxes"):
        box_samples(np.zeros(3), "fedsto")
