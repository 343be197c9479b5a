"""Callbacks: small listeners on a run, for progress bars and trackers."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..configs import Config


class Callback:
    """Listens to a run. Every hook does nothing unless it is overridden; none may change the result."""

    def on_start(self, config: Config, folder: Path, first: int) -> None:
        """Hear that the run starts with round `first`."""

    def on_ask(self, round_: int, kind: str, clients: int) -> None:
        """Hear that so many clients are asked to train or to evaluate."""

    def on_reply(self) -> None:
        """Hear that one of them has answered."""

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Hear that a round has ended; `record` is its line in rounds.jsonl."""

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Hear that the run has ended; `summary` is summary.json."""


class Callbacks(Callback):
    """Several callbacks as one."""

    def __init__(self, listeners: Sequence[Callback]) -> None:
        self.listeners = list(listeners)

    def on_start(self, config: Config, folder: Path, first: int) -> None:
        """Tell all."""
        for listener in self.listeners:
            listener.on_start(config, folder, first)

    def on_ask(self, round_: int, kind: str, clients: int) -> None:
        """Tell all."""
        for listener in self.listeners:
            listener.on_ask(round_, kind, clients)

    def on_reply(self) -> None:
        """Tell all."""
        for listener in self.listeners:
            listener.on_reply()

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Tell all."""
        for listener in self.listeners:
            listener.on_round(record)

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Tell all."""
        for listener in self.listeners:
            listener.on_end(summary)


class TensorBoard(Callback):
    """Writes every metric, the bytes and the seconds as TensorBoard events into DIR/tensorboard."""

    def __init__(self) -> None:
        self._writer: Any = None

    @staticmethod
    def available() -> bool:
        """Say whether the extra `fedbox[tensorboard]` is installed."""
        return find_spec("tensorboard") is not None

    def on_start(self, config: Config, folder: Path, first: int) -> None:
        """Open the event file; a resumed run hides the events of the rounds that it runs again."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder / "tensorboard", purge_step=first)

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Write the round's numbers."""
        step = record["round"]
        for name, value in record["metrics"].items():
            if value is not None:  # it was not finite
                self._writer.add_scalar(f"metrics/{name}", value, step)
        for name in ("bytes_up", "bytes_down"):
            self._writer.add_scalar(f"bytes/{name}", record[name], step)
        for name, value in record["seconds"].items():
            self._writer.add_scalar(f"seconds/{name}", value, step)

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Close the event file, if the run came as far as opening one."""
        if self._writer is not None:
            self._writer.close()
