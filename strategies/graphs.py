"""Steps recorded once and replayed: on a GPU a small step costs the launches of its kernels, not their arithmetic.

A CUDA graph launches all kernels of a step at once. It reads and writes the same memory each time, so a step of fixed
shapes is recorded with inputs and outputs of its own, and every later one is copied in, replayed and copied out.
"""

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .logs import warn_once

log = logging.getLogger("fedbox.engine")

Step = Callable[[Tensor, Tensor], Tensor]
Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], Any], Tensor]]
"""Given a piece of work, gives what does it again on the memory it has met, and the tensor that holds its result."""

_EAGER = 2  # times that a shape is met before it is recorded: shapes of a few last batches are not worth it
_WARM_UP = 3  # runs before the recording: libraries choose their algorithms and their room in these
_MOST = 64  # recordings kept


@dataclass
class _Recording:
    x: Tensor
    y: Tensor
    replay: Callable[[], Any]
    losses: Tensor


class Replays:
    """Does steps of a few shapes: the first ones as they come, those of a known shape by replaying a recording.

    A step takes images and labels and gives a tensor; whatever else it writes must lie where it lay before, and it must
    not read what it writes, for the recording runs it several times.
    """

    def __init__(self, record: Recorder | None) -> None:
        self._record = record
        self._met: dict[Hashable, int] = {}
        self._kept: dict[Hashable, _Recording] = {}

    @classmethod
    def on(cls, device: torch.device, wanted: bool) -> "Replays":
        """Give those of a device: CUDA graphs on a GPU where they are wanted, else every step as it comes."""
        return cls(CudaGraphs(device) if wanted and device.type == "cuda" else None)

    def forget(self) -> None:
        """Drop all recordings: what they read and write is no longer in use."""
        self._met.clear()
        self._kept.clear()

    def run(self, key: Hashable, step: Step, x: Tensor, y: Tensor) -> Tensor:
        """Do a step on x and y. `key` says on what else it depends; the result is the caller's to keep."""
        if self._record is None:
            return step(x, y)
        key = (key, x.shape, y.shape)
        kept = self._kept.get(key)
        if kept is None:
            self._met[key] = met = self._met.get(key, 0) + 1
            if met <= _EAGER or len(self._kept) >= _MOST:
                return step(x, y)
            kept = self._recorded(self._record, step, x, y)
            if kept is None:
                return step(x, y)
            self._kept[key] = kept
        kept.x.copy_(x)
        kept.y.copy_(y)
        kept.replay()
        return kept.losses.clone()

    def _recorded(self, record: Recorder, step: Step, x: Tensor, y: Tensor) -> _Recording | None:
        own_x, own_y = x.clone(), y.clone()
        try:
            replay, losses = record(lambda: step(own_x, own_y))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._record = None
            first = str(error).strip().partition("\n")[0]
            warn_once(log, f"steps cannot be recorded as CUDA graphs ({first}): each is launched by itself")
            return None
        return _Recording(own_x, own_y, replay, losses)


class CudaGraphs:
    """Records work on a GPU. All recordings share their memory, for one ends before the next one begins."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool: Any = None

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Callable[[], Any], Tensor]:
        """Run the work a few times beside the current stream, then record it; see `Recorder`."""
        with torch.cuda.device(self.device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            main = torch.cuda.current_stream()
            aside = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            aside.wait_stream(main)
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP):
                    work()
            main.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                result = work()
        return graph.replay, result
