"""The trackers that come with fedbox: small callbacks, each over what a round's record says.

All go on with a resumed run where it goes on: a round that is run again, for it came after the last checkpoint, stands
there once, and one of which they did not hear any more, as the run was killed, is made up for. What a tracker must know
for that lies in DIR/trackers/NAME.json.
"""

import csv
import io
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ..configs import Config
from ..strategies.atomic import write_atomic
from .callbacks import Callback
from .records import Record, read_rounds

_SHOWN = 5  # seconds after which TensorBoard sees a round: to hand over every one takes longer than a short round


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Give a record's numbers: metrics/NAME, bytes/NAME, seconds/NAME, failures. Those that were not finite are out."""
    found = {f"metrics/{name}": value for name, value in record["metrics"].items() if value is not None}
    found |= {f"bytes/{name}": record[name] for name in ("bytes_up", "bytes_down")}
    found |= {f"seconds/{name}": value for name, value in record["seconds"].items()}
    return {**found, "failures": len(record["failures"])}


def flat(block: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give a configuration with dotted keys; lists stay whole."""
    found: dict[str, Any] = {}
    for key, value in block.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def unheard(folder: Path, last: int, first: int) -> list[Record]:
    """Give the rounds behind `last` that a run going on with round `first` does not run again.

    A round is told once the next one has ended, and may have its checkpoint before. So a run that was killed leaves one
    that no tracker heard of; a tracker that is new to the run has heard of none.
    """
    return [record for record in read_rounds(folder / "rounds.jsonl") if last < record["round"] < first]


class CSV(Callback):
    """Writes every round as a row of DIR/metrics.csv."""

    def on_start(self, config: Config, folder: Path, first: int) -> None:
        """Take up the rows of the rounds before `first`."""
        self._file, self._rows = folder / "metrics.csv", list[dict[str, Any]]()
        if self._file.exists():
            with self._file.open(newline="", encoding="utf-8") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["round"]) < first]
        self._columns = list(dict.fromkeys(name for row in self._rows for name in row))
        self._write()
        for record in unheard(folder, max((int(row["round"]) for row in self._rows), default=0), first):
            self.on_round(record)

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Add a row; a metric that is new gets a column, in which the rounds before are empty."""
        row = {"round": record["round"], "phase": record["phase"], **numbers(record)}
        self._rows.append(row)
        new = [name for name in row if name not in self._columns]
        self._columns += new
        if new:
            self._write()
        else:
            with self._file.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)

    def _write(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        if self._columns:
            writer.writeheader()
        writer.writerows(self._rows)
        write_atomic(self._file, text.getvalue().encode())


def _await_turn(place: Path) -> None:
    """Wait, a second at most, until a new event file is the last one by its name, in whose order they are read.

    The name has the whole second and then the process, so that of a run resumed within its second may come first.
    """
    seconds = (file.name.split(".")[3] for file in place.glob("events.out.tfevents.*"))
    newest = max((int(text) for text in seconds if text.isdecimal()), default=0)
    time.sleep(min(max(newest + 1 - time.time(), 0.0), 1.0))


class TensorBoard(Callback):
    """Writes every round as TensorBoard events into DIR/tensorboard."""

    needs: ClassVar[Mapping[str, str]] = {"tensorboard": "pip install 'fedbox[tensorboard]'"}

    def __init__(self) -> None:
        self._writer: Any = None

    def on_start(self, config: Config, folder: Path, first: int) -> None:
        """Open an event file; that of a resumed run hides the ones before it and has all rounds anew.

        What waited to be written when a run was killed is lost, and where that began nobody knows.
        """
        from torch.utils.tensorboard import SummaryWriter

        place = folder / "tensorboard"
        _await_turn(place)
        self._writer = SummaryWriter(place, purge_step=1, flush_secs=_SHOWN)
        for record in unheard(folder, 0, first):
            self.on_round(record)

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Write the round's numbers."""
        for name, value in numbers(record).items():
            self._writer.add_scalar(name, value, record["round"])

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Close the event file, if the run came as far as opening one."""
        if self._writer is not None:
            self._writer.close()


class Remote(Callback):
    """What trackers share whose run lies in a store of their own: its id and the last round that is there."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self.run_id, self.last, self._file = "", 0, Path()
        self.started = False

    def on_start(self, config: Config, folder: Path, first: int) -> None:
        """Begin a run in the store, or go on with the one of this folder."""
        self._file = folder / "trackers" / f"{self.name}.json"
        if self._file.exists():
            known = json.loads(self._file.read_text(encoding="utf-8"))
            self.run_id, self.last = known["run"], known["round"]
        self.open(config, folder)
        self.started = True
        self._remember()
        for record in unheard(folder, self.last, first):
            self.on_round(record)

    def _remember(self) -> None:
        self._file.parent.mkdir(exist_ok=True)
        write_atomic(self._file, json.dumps({"run": self.run_id, "round": self.last}).encode())

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Log the round, unless it is there already: run again, it is the same."""
        if record["round"] <= self.last:
            return
        self.log(record["round"], numbers(record))
        self.last = record["round"]
        self._remember()

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Close the run, with how it ended."""
        if self.started:
            self.end(summary)

    def open(self, config: Config, folder: Path) -> None:
        """Open the run `run_id`, or a new one when that is empty, and set it; `last` may be raised."""
        raise NotImplementedError

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers of a round."""
        raise NotImplementedError

    def end(self, summary: Mapping[str, Any]) -> None:
        """Say how the run ended."""
        raise NotImplementedError


class MLflow(Remote):
    """Logs to MLflow: a run for each run; where MLFLOW_TRACKING_URI says, else in DIR/mlflow.db."""

    name = "mlflow"
    needs: ClassVar[Mapping[str, str]] = {"mlflow": "pip install 'fedbox[mlflow]'"}
    _ENDS: ClassVar[Mapping[str, str]] = {"failed": "FAILED", "interrupted": "KILLED"}

    def open(self, config: Config, folder: Path) -> None:
        """Find or make the experiment (MLFLOW_EXPERIMENT_NAME, else fedbox) and the run; log the configuration."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
        self._client = MlflowClient(tracking_uri=store)
        if self.run_id:
            self._client.update_run(self.run_id, status="RUNNING")
            # The store knows best: a process may be killed between its last entry and our note of it.
            seen = self._client.get_metric_history(self.run_id, "failures")
            self.last = max([self.last, *(metric.step for metric in seen)])
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fedbox")
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        tags = {"fedbox.folder": str(folder), "fedbox.strategy": config.strategy}
        self.run_id = self._client.create_run(experiment, tags=tags, run_name=config.name).info.run_id
        params = [Param(key, str(value)[:500]) for key, value in flat(config.model_dump(mode="json")).items()]
        for start in range(0, len(params), 100):  # the most that a store takes at a time
            self._client.log_batch(self.run_id, params=params[start : start + 100])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log a round as one batch."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        rows = [Metric(re.sub(r"[^\w. /-]", "_", name), float(value), now, step) for name, value in values.items()]
        for start in range(0, len(rows), 1000):
            self._client.log_batch(self.run_id, metrics=rows[start : start + 1000])

    def end(self, summary: Mapping[str, Any]) -> None:
        """Tell the hash of the model and how the run ended."""
        self._client.set_tag(self.run_id, "fedbox.model_sha256", summary["model_sha256"])
        self._client.set_terminated(self.run_id, self._ENDS.get(summary["status"], "FINISHED"))


class WandB(Remote):
    """Logs to Weights & Biases, into DIR/wandb and nowhere else unless WANDB_MODE=online."""

    name = "wandb"
    needs: ClassVar[Mapping[str, str]] = {"wandb": "pip install 'fedbox[wandb]'"}

    def open(self, config: Config, folder: Path) -> None:
        """Begin a run (project: WANDB_PROJECT, else fedbox), or go on under the same id."""
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")  # wandb itself says what is allowed
        self._run = wandb.init(
            id=self.run_id or None,
            project=os.environ.get("WANDB_PROJECT", "fedbox"),
            name=config.name,
            group=config.strategy,
            config=flat(config.model_dump(mode="json")),
            dir=folder,
            mode=mode,
            resume="allow" if self.run_id else None,
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True, disable_git=True),
        )
        self.run_id = self._run.id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log a round as one step, and hand it over at once: a killed run loses no round that waits for the next."""
        self._run.log(dict(values), step=step, commit=True)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Tell the best values and how the run ended."""
        self._run.summary.update({"status": summary["status"], "model_sha256": summary["model_sha256"]})
        self._run.finish(exit_code=int(summary["status"] in ("failed", "interrupted")))
