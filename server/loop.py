"""The round loop: ask a cohort, aggregate, refine, evaluate, record, checkpoint; then the next round.

It runs over any Flower Grid. What it computes is a pure function of the configuration: neither the Grid, nor the order
of the replies, nor a kill and a resume changes a bit of the model.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..configs import Config
from ..models import buffer_names
from ..strategies.base import Grid
from ..strategies.contract import Ask, Plugin, ServerHalf, Update
from ..strategies.exact import Arrays, ExactSum, SumFullError
from ..strategies.federation import Federation
from ..strategies.halves import warn_unheard
from ..strategies.registry import settings_of
from ..strategies.seeds import derive, seed_everything
from ..strategies.validate import check_late, check_needs, figures, warn_idle, warn_never_asked, warn_unmeasured
from . import hooks
from .callbacks import Callback
from .checkpoint import Checkpoint, Frozen, Pace, commit_checkpoint, draft_checkpoint, load_checkpoint, newest
from .clock import Clock
from .collect import Collector
from .collected import Collected, line_of
from .evaluation import client_metrics
from .own import Own
from .records import FAILED, Record, Records, clean
from .roster import everyone, roster_of, size_of
from .selecting import Chooser
from .stopping import Stopper
from .traces import Traces, Visit
from .writing import Writer

SERVER_BUFFER = "server-buffer/"
"""How the names begin, in a checkpoint's state, of the server's own normalisation statistics."""
PAUSE = 1.0
"""Seconds between checkpoints in a simulation: what a killed run does again at most, beside two rounds."""
Measure = Callable[[], dict[str, float]]
"""Gives the metrics of the global model, as it was when this was made."""


class RunFailedError(RuntimeError):
    """A round could not be completed; the run can be resumed from the last checkpoint."""

    exit_code = 1


class Coordinator:
    """One run over one Grid, in one folder. `pause`: seconds between checkpoints where nothing hangs on them."""

    def __init__(
        self,
        federation: Federation,
        plugin: Plugin,
        grid: Grid,
        folder: Path,
        callback: Callback | None = None,
        *,
        pause: float = 0.0,
    ) -> None:
        self.federation = federation
        self.config: Config = federation.config
        self.grid = grid
        self.folder = folder
        self.callback = callback or Callback()
        self.personal = plugin.client.personal
        self.roster = roster_of(grid)
        self.own = Own(federation, len(self.roster))
        self.flat = self.own.flat
        check_needs(self.config.strategy, plugin.client, federation.dataset.name, federation.boxed)
        check_late(self.config.strategy, plugin.server, self.config.clients.late)
        settings = settings_of(plugin, self.config.strategy, self.config.settings)
        self.half = hooks.made(plugin.server, settings, self.own.site(0))
        warn_unheard(plugin)
        warn_unmeasured(federation, self.personal)
        warn_never_asked(self.config.strategy, self.half, self.config.rounds)
        if hasattr(grid, "meet"):
            grid.meet(federation, plugin.client(settings), self.callback.on_engine)
        self.committed: Arrays = dict(self.half.weights)
        """The weights after the last round that was recorded: those of a run that fails or is stopped."""
        self.records = Records(folder / "rounds.jsonl")
        self.traces = Traces(folder)
        self.writer = Writer()
        self.pace = Pace(folder, self.config.engine.checkpoint_every, pause)
        self.stopper = Stopper(self.config.evaluate.stop)
        self.collector = Collector(grid, self.roster, self.half, self.config.clients)
        self.chooser = Chooser(self.config, self.roster, self.collector)
        self.status = "running"
        self._untold: Record | None = None
        self._clock = Clock()

    def restore(self) -> int:
        """Take up the state of the last checkpoint and give the round that comes next. Raises CheckpointError."""
        checkpoint = load_checkpoint(self.folder / "checkpoint", self.config)
        self.traces.resume(checkpoint.round if checkpoint else 0)
        if checkpoint is None:
            self.records.resume(0)
            return 1
        self.half.weights, self.committed = checkpoint.weights, dict(checkpoint.weights)
        state = dict(checkpoint.state)
        self.flat.load({name: state.pop(SERVER_BUFFER + name) for name in self._own_buffers()})
        self.half.restore(state)
        self.records.resume(checkpoint.round)
        self.stopper.replay(self.records.path)
        self.chooser.replay(self.records.path)
        return checkpoint.round + 1

    def _own_buffers(self) -> Arrays:
        """Give the server's normalisation statistics where the policy leaves them with whoever made them."""
        if self.config.model.buffers != "local":
            return {}
        return self.flat.state(buffer_names(self.flat.module))

    def measured(self) -> Arrays | None:
        """Give the global model as the server measures it, its own statistics included; None for personal models."""
        return None if self.personal else {**self.committed, **self._own_buffers()}

    def left(self, first: int) -> bool:
        """Say whether a round is to be run from `first` on: neither all are done nor has the run stopped early."""
        return first <= self.config.rounds and not self.stopper.done

    def run(self, first: int = 1) -> None:
        """Run the rounds from `first` on. Raises RunFailedError when too few clients of a cohort succeed."""
        if self.left(first):
            (self.folder / "summary.json").unlink(missing_ok=True)  # of a part that ended; the run goes on
        self.callback.on_start(self.config, self.folder, first)
        self.pace.begin()
        try:
            for round_ in range(first, self.config.rounds + 1):
                if self.stopper.done:
                    break
                self._run_round(round_)
        finally:
            self.writer.wait()
            self._tell()
        self.status = "stopped" if self.stopper.done and self.records.rounds < self.config.rounds else "completed"

    def _run_round(self, round_: int) -> None:
        began = time.monotonic()
        self._clock = Clock()
        self.chooser.begin()
        self._seed("ask", round_)
        ask = hooks.ask(self.half, round_)
        trained = self._train(round_, ask) if ask is not None else Collected()
        with self._clock.timed("refine"):
            self._seed("refine", round_)
            refined = hooks.refine(self.half, self.own.site(round_))
        metrics = refined | trained.means()
        evaluated, measure = Collected(), None
        counted = self.stopper.see(metrics)  # a run that ends by what training told is evaluated all the same
        if round_ % self.config.evaluate.every == 0 or round_ == self.config.rounds or self.stopper.done:
            with self._clock.timed("evaluate"):
                measure = self._measure(round_, metrics)
                evaluated = self._evaluate(round_, list(trained.clients), metrics)
            self.stopper.miss(metrics)
        if not counted:
            self.stopper.see(metrics)
        record = self._record(round_, ask.phase if ask else "server", metrics, trained, evaluated)
        self.chooser.see(clean(record))
        self._commit(record, began, self.chooser.probed.visits + trained.visits + evaluated.visits, measure)

    def _record(
        self, round_: int, phase: str, metrics: dict[str, float], trained: Collected, evaluated: Collected
    ) -> Record:
        line = line_of(round_, phase, metrics, self.chooser.probed, trained, evaluated)
        return {**line, "asked": self.chooser.asked} if self.chooser.asked else line

    def _commit(self, record: Record, began: float, visits: list[Visit], measure: Measure | None) -> None:
        """Measure, write the round's line and, when one is due, the checkpoint, all while the next round runs.

        The checkpoint becomes valid after the line is written, so a resumed run always finds the lines of all rounds
        up to its checkpoint. What is written is taken down first: the next round may change the arrays.
        """
        round_, frozen = record["round"], None
        with self._clock.timed("checkpoint"):
            last = round_ == self.config.rounds or self.stopper.done
            if self.pace.due(round_) or last:
                own = {SERVER_BUFFER + name: value for name, value in self._own_buffers().items()}
                frozen = Frozen.of(Checkpoint(round_, self.half.weights, {**hooks.state(self.half), **own}))
            self.writer.wait()  # for the last round's measure or the disk, where they take longer than a round
        self._tell()
        clock, weights = self._clock, dict(self.half.weights)  # a strategy may change its own mapping in place
        landmarks = hooks.landmarks(self.half)
        record["seconds"] = {**clock.seconds, "total": time.monotonic() - began}

        def write() -> None:
            if measure is not None:
                with clock.timed("evaluate"):
                    seen = measure()
                    record["metrics"] = {**seen, **record["metrics"], **seen}  # what people look for comes first
                record["seconds"] |= clock.seconds
            self.traces.write(round_, began, visits, clock.phases, landmarks)
            draft = draft_checkpoint(self.folder / "checkpoint", frozen, self.config) if frozen else None
            self.records.append(record, sync=draft is not None)
            self.committed = weights
            if draft is not None:
                commit_checkpoint(draft)

        self.writer.submit(write)
        self._untold = record
        if measure is None:
            self._tell()

    def _tell(self) -> None:
        """Tell the listeners of the last round, once it is known."""
        record, self._untold = self._untold, None
        if record is not None:
            self.callback.on_round(clean(record))

    def _seed(self, phase: str, round_: int) -> None:
        """Seed the global generators anew for each step of the server: clients may draw from them in between."""
        seed_everything(derive(self.config.seed, phase, round_))

    def _train(self, round_: int, ask: Ask) -> Collected:
        config = self.config
        size = size_of(config.clients.per_round, len(self.roster))
        with self._clock.timed("select"):
            cohort = self.chooser.choose(round_, size, self.half)
        total = hooks.begin(self.half)
        self.callback.on_ask(round_, "train", len(cohort))
        clock = self._clock

        def use(name: str, update: Update) -> None:
            with clock.charged("aggregate", instead="train"):
                hooks.add(self.half, total, name, update)

        def merge(part: ExactSum) -> None:
            with clock.charged("aggregate", instead="train"):
                total.merge(part)

        with clock.timed("train"):
            try:
                trained = self.collector.collect("train", round_, ask, cohort, use, self.callback.on_reply, merge)
            except SumFullError as error:  # to refuse whoever came last would be another model each time
                raise RunFailedError(f"round {round_}: {error}; a changed key needs a new --out") from error
        self._require(round_, trained, len(cohort))
        warn_idle(self.config.strategy, [row["examples"] for row in trained.clients.values()])
        with clock.timed("aggregate"):
            self._seed("aggregate", round_)
            hooks.finish(self.half, total, round_)
        return trained

    def _require(self, round_: int, trained: Collected, cohort: int) -> None:
        needed = size_of(self.config.clients.min_success, cohort)
        if len(trained.clients) >= needed:
            return
        record = self._record(round_, FAILED, {}, trained, Collected())
        self.writer.wait()
        self.records.append({**record, "seconds": {**self._clock.seconds, "total": sum(self._clock.seconds.values())}})
        held = newest(self.folder / "checkpoint")
        raise RunFailedError(
            f"round {round_}: {len(trained.clients)} of {cohort} clients succeeded, "
            f"clients.min_success wants {needed}:\n{trained.reasons()}\nmend the cause, then go on with --resume"
            + ("; as there is a checkpoint, a changed key such as train.lr needs a new --out" if held else "")
        )

    def _measure(self, round_: int, metrics: dict[str, float]) -> Measure | None:
        """Fill in the global model's metrics, or give how they are measured while the next round runs.

        That is so where the clients run elsewhere, nothing waits for the metrics, and the strategy has no evaluation
        of its own, which might read what the next round changes.
        """
        self._seed("evaluate", round_)
        if self.personal:
            return None
        apart = not getattr(self.grid, "here", False) and self.stopper.idle
        if not apart or type(self.half).evaluate is not ServerHalf.evaluate:
            site = self.own.site(round_)
            metrics |= figures(self.half.evaluate(site, site.test), self.half, "evaluate")
            return None
        self.writer.wait()  # the last measure reads the copy until then
        copy = self.own.copy(round_)
        self.half.bring(copy)
        return partial(copy.evaluate, copy.test)

    def _evaluate(self, round_: int, trained: list[str], metrics: dict[str, float]) -> Collected:
        """Fill in the clients' metrics."""
        config = self.config
        which = config.evaluate.clients
        if which == "none" and not self.personal:
            return Collected()
        names = trained if which == "cohort" else list(everyone(self.roster))
        ask = hooks.ask_evaluate(self.half, round_)
        self.callback.on_ask(round_, "evaluate", len(names))
        evaluated = self.collector.collect(
            "evaluate", round_, ask, names, lambda _name, _update: None, self.callback.on_reply
        )
        metrics |= client_metrics(evaluated, config.evaluate.personal if self.personal else None)
        return evaluated
