"""Callbacks: small listeners on a run, for progress bars and trackers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..configs import Config


class Callback:
    """Listens to a run. Every hook does nothing unless it is overridden; none may change the result."""

    needs: ClassVar[Mapping[str, str]] = {}
    """Packages, as they are imported, that this callback cannot do without, each with the command that installs it."""

    def on_start(self, config: Config, folder: Path, first: int) -> None:
        """Hear that the run starts with round `first`."""

    def on_engine(self, text: str) -> None:
        """Hear, once, how the engine runs the clients, in words, where that is news."""

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
        """Raise TypeError for what is no listener: it would be found out in mid-run."""
        wrong: list[object] = [each for each in listeners if not isinstance(each, Callback)]
        for each in wrong:
            hint = f"; did you mean {each.__name__}()?" if isinstance(each, type) else ""
            raise TypeError(f"callbacks: got {each!r}; wanted: objects of subclasses of fedbox.Callback{hint}")
        self.listeners = list(listeners)

    def on_start(self, config: Config, folder: Path, first: int) -> None:
        """Tell all."""
        for listener in self.listeners:
            listener.on_start(config, folder, first)

    def on_engine(self, text: str) -> None:
        """Tell all."""
        for listener in self.listeners:
            listener.on_engine(text)

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
