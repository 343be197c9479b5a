"""Plain supervised training of several clients in one pass over a stack of models: the same batches as one by one.

What a client trains on follows from its own site alone. At each step the clients whose batch has the same size, and
whose learning rate is the same, train together; who has run out of batches takes no part, so nothing moves its weights.
Clients are sorted so that those who go together lie side by side.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..configs import Config
from ..models import FlatModel
from ..models.stacked import Stack, StackError
from .contract import ClientHalf, Plain, Update
from .graphs import Replays
from .optim import lr_factor
from .samples import Batch, Samples
from .site import Site
from .validate import breach

_LEVELS = 8  # of torch's sum of losses
_STAGED = 2_000_000  # values of images laid out at a time, over all clients


def refuse_training(config: Config, half: ClientHalf[Any]) -> None:
    """Raise StackError, which says why, where clients cannot be trained in one pass, whatever their model is."""
    train = config.train
    plain: object = half.plain()
    if plain is None:
        raise StackError(f"strategy {config.strategy}: its clients do more than plain supervised training")
    if not isinstance(plain, Plain):
        raise breach(half, "plain", plain, "a Plain or None")
    if train.optimizer != "sgd":
        raise StackError(f"train.optimizer={train.optimizer}: only sgd has a step over all clients")
    if train.clip_norm is not None:
        raise StackError("train.clip_norm: each client's gradient has its own norm")
    if train.precision != "float32":
        raise StackError(f"train.precision={train.precision}: stacks compute in float32")
    if config.model.family or config.model.by_client:
        raise StackError("model.family: clients have different networks")
    if config.clients.order.kind != "none":
        raise StackError(f"clients.order.kind={config.clients.order.kind}: samples are scored client by client")


@dataclass
class _Course:
    """One client's way through a round: its batches one by one, or their places all at once."""

    place: int
    site: Site
    samples: Samples
    sizes: list[int]
    batches: Iterator[Batch] | None = None
    index: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))  # [steps, batch], padded with 0
    losses: list[float] = field(default_factory=list)  # the mean loss of each step
    row: int = 0


class StackTrainer:
    """Trains groups of clients that have the same network; the stack is kept and grows to the largest group.

    `exact` asks for the bits of clients one by one, at the cost of some speed; it means nothing on a GPU.
    """

    def __init__(self, like: FlatModel, plain: Plain, replays: Replays, exact: bool) -> None:
        self.like, self.plain, self._replays = like, plain, replays
        self._exact = exact and like.flat.device.type == "cpu"
        self._stack: Stack | None = None
        self._room = _Room()
        self._losses: list[tuple[list[_Course], Tensor]] = []  # the clients of a step and their losses [m, b]

    def train(self, sites: Sequence[Site], samples: Sequence[Samples]) -> list[Update]:
        """Train the clients from the weights that `like` holds; give their updates in the order of the sites.

        The arrays of the updates are views that the next call overwrites. Sites share one configuration.
        """
        if self._stack is None or self._stack.size < len(sites):
            self._stack = Stack(self.like, len(sites), self._exact)
            self._replays.forget()  # recordings are of the stack they were made of
        courses = [_course(place, site, held) for place, (site, held) in enumerate(zip(sites, samples, strict=True))]
        courses.sort(key=lambda course: (-len(course.sizes), course.sizes))
        for row, course in enumerate(courses):
            course.row = row
        bank = self._stack.bank
        bank.flat[: len(sites)] = self.like.flat
        velocity = torch.zeros_like(bank.flat) if sites[0].train_config.momentum else None
        steps = max((len(course.sizes) for course in courses), default=0)
        at = 0
        while at < steps:
            count = min(self._window(courses), steps - at)
            staged = _Staged(courses, at, count, self._room)
            for step in range(at, at + count):
                for run in _runs(courses, step):
                    self._step(run, step, *staged.batch(run, step), velocity)
            at += count
        self._tell()
        updates = {course.place: self._update(course, sites[0].names) for course in courses}
        return [updates[place] for place in range(len(sites))]

    def _window(self, courses: Sequence[_Course]) -> int:
        """Give how many steps' images are laid out at a time."""
        if any(course.batches is not None for course in courses):
            return 1
        values = len(courses) * max(course.index.shape[1] for course in courses) * courses[0].samples.values
        return max(1, _STAGED // max(values, 1))

    def _step(self, run: "list[_Course]", step: int, x: Tensor, y: Tensor, velocity: Tensor | None) -> None:
        """Take one step of the clients of a run, which lie side by side: x [m, b, ...], y [m, b]."""
        assert self._stack is not None
        rows = slice(run[0].row, run[-1].row + 1)
        losses = self._replays.run((rows.start, rows.stop), partial(_losses, self._stack, rows), x, y)
        self._losses.append((run, losses))
        self._descend(run[0], step, rows, velocity)

    @torch.no_grad()
    def _descend(self, first: _Course, step: int, rows: slice, velocity: Tensor | None) -> None:
        """Move the weights of the rows as `FlatSGD` moves those of one client."""
        assert self._stack is not None
        bank, train = self._stack.bank, first.site.train_config
        weights, grad = bank.flat[rows], bank.grad[rows]
        if self.plain.pull:
            grad.add_(weights - self.like.flat, alpha=self.plain.pull)
        if train.weight_decay:
            grad.add_(weights, alpha=train.weight_decay)
        if velocity is not None:
            grad = velocity[rows].copy_(grad) if step == 0 else velocity[rows].mul_(train.momentum).add_(grad)
        weights.add_(grad, alpha=-_lr(first, step))

    def _tell(self) -> None:
        """Give every course its mean loss of each step, worked out for all steps at once."""
        by_size: dict[int, list[Tensor]] = {}
        for _, losses in self._losses:
            by_size.setdefault(losses.shape[1], []).append(losses)
        means = {size: iter(_means(torch.cat(parts)).tolist()) for size, parts in by_size.items()}
        for run, losses in self._losses:
            for course in run:
                course.losses.append(next(means[losses.shape[1]]))
        self._losses.clear()

    def _update(self, course: _Course, names: Sequence[str]) -> Update:
        assert self._stack is not None
        weights: Mapping[str, NDArray[Any]] = self._stack.bank.arrays(course.row, names)
        if not course.sizes:
            return Update(weights, 0, {})
        total = 0.0
        for value, size in zip(course.losses, course.sizes, strict=True):
            total += value * size
        return Update(weights, len(course.samples), {"train_loss": total / sum(course.sizes)})


def _losses(stack: Stack, rows: slice, x: Tensor, y: Tensor) -> Tensor:
    """Give the losses [m, b] of the models of the rows; their mean's gradients lie in the stack's bank afterwards."""
    logits = stack.logits(x, rows)
    with torch.no_grad():
        scores = torch.log_softmax(logits, 2)
        # The gradient of a mean of cross-entropies, as autograd forms it: each client's own mean.
        inner = torch.zeros_like(scores).scatter_(2, y.unsqueeze(2), -1.0 / y.shape[1])
        outer = torch._log_softmax_backward_data(inner, scores, 2, scores.dtype)
    torch.autograd.backward(logits, outer)
    return -scores.gather(2, y.unsqueeze(2)).squeeze(2)


def _means(losses: Tensor) -> Tensor:
    """Give the means [n] of losses [n, b], rounded as torch's `nll_loss` rounds them on a CPU.

    It adds up in levels of 16 terms; the first term is carried to the last level at once.
    """
    size = losses.shape[1]
    power = max(4, (size - 1).bit_length() // _LEVELS)
    levels = [torch.zeros_like(losses[:, 0]) for _ in range(_LEVELS)]
    for at, column in enumerate(losses.T.contiguous()):
        levels[0] = levels[0] + column
        for level in range(_LEVELS - 1):
            if at & (((1 << power) - 1) << (level * power)):
                break
            levels[level + 1] = levels[level + 1] + levels[level]
            levels[level] = torch.zeros_like(column)
    total = levels[0]
    for rest in levels[1:]:
        total = total + rest
    return total / size


def _course(place: int, site: Site, samples: Samples) -> _Course:
    """Draw a client's batches as `Site.fit` does."""
    count = len(samples)
    if not count:
        return _Course(place, site, samples, [])
    if site.train_config.view != "none":
        batch, steps = site.train_config.batch_size, site.steps(count)
        epoch = [min(batch, count - start) for start in range(0, count, batch)]
        sizes = [epoch[step % len(epoch)] for step in range(steps)]
        return _Course(place, site, samples, sizes, site.batches(samples))
    parts = list(site.indices(count))
    sizes = [len(part) for part in parts]
    index = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    return _Course(place, site, samples, sizes, None, index)


class _Room:
    """The memory in which batches are laid out, kept from group to group."""

    def __init__(self) -> None:
        self._kept: tuple[Tensor, Tensor] | None = None

    def tensors(self, courses: Sequence[_Course], steps: int, size: int) -> tuple[Tensor, Tensor]:
        """Give room for images [clients, steps, size, ...] and labels [clients, steps, size]."""
        like = courses[0].samples.batch(torch.zeros(0, dtype=torch.int64, device=courses[0].samples.y.device))
        places = (len(courses), steps, size)
        count = len(courses) * steps * size
        values = count * courses[0].samples.values
        if self._kept is None or self._kept[0].numel() < values or self._kept[1].numel() < count:
            self._kept = like.x.new_zeros(values), like.y.new_zeros(count)
        x, y = self._kept
        return x[:values].view(*places, *like.x.shape[1:]), y[:count].view(places)


class _Staged:
    """The batches of all clients for some steps, in two tensors: images [clients, steps, b, ...], labels."""

    def __init__(self, courses: Sequence[_Course], first: int, steps: int, room: "_Room") -> None:
        self.first = first
        size = max(max(course.sizes, default=0) for course in courses)
        self._x, self._y = room.tensors(courses, steps, size)
        for course in courses:
            mine = min(steps, len(course.sizes) - first)
            if mine <= 0:
                continue
            if course.batches is None:
                self._take(course, mine)
            else:
                batch = next(course.batches)
                self._x[course.row, 0, : len(batch)] = batch.x
                self._y[course.row, 0, : len(batch)] = batch.y

    def _take(self, course: _Course, steps: int) -> None:
        """Lay out a client's images and labels for some steps, taken from its samples in one go."""
        index = course.index[self.first : self.first + steps]
        x, y = self._x[course.row, :steps, : index.shape[1]], self._y[course.row, :steps, : index.shape[1]]
        if index.shape[1] == self._x.shape[2]:  # the rows lie side by side
            course.samples.fill(index.reshape(-1), x.view(-1, *x.shape[2:]), y.view(-1))
            return
        batch = course.samples.batch(index.reshape(-1))
        x.copy_(batch.x.view(x.shape))
        y.copy_(batch.y.view(y.shape))

    def batch(self, run: Sequence[_Course], step: int) -> tuple[Tensor, Tensor]:
        """Give the images [m, b, c, h, w] and labels [m, b] of the clients of a run at a step."""
        rows, size = slice(run[0].row, run[-1].row + 1), run[0].sizes[step]
        return self._x[rows, step - self.first, :size], self._y[rows, step - self.first, :size]


def _runs(courses: Sequence[_Course], step: int) -> Iterator[list[_Course]]:
    """Give the clients that go together at a step: side by side, with batches of one size, at one learning rate."""
    active = (course for course in courses if step < len(course.sizes))
    for _, run in groupby(active, key=lambda course: (course.sizes[step], _lr(course, step))):
        yield list(run)


def _lr(course: _Course, step: int) -> float:
    site = course.site
    schedule = site.train_config.schedule
    return site.lr if schedule == "constant" else site.lr * lr_factor(schedule, step, len(course.sizes))
