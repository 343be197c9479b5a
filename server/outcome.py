"""The outcome of a run: summary.json, model.safetensors, and the value that `fedbox.run` gives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from ..data.inputs import Inputs
from ..strategies.exact import Arrays
from .folder import RunFolder
from .loop import Coordinator
from .memory import peak_rss_mb
from .records import Record, digest, nested, read_rounds, versions


@dataclass(frozen=True)
class Result:
    """What a run left: its folder, its summary (as in summary.json), and ways to read the rest."""

    folder: Path
    summary: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Any]:
        """The last value of every metric; those by domain or class are mappings."""
        return dict(self.summary["metrics"])

    @property
    def rounds(self) -> list[Record]:
        """One mapping a round, as in rounds.jsonl."""
        return read_rounds(self.folder / "rounds.jsonl")

    def weights(self) -> Arrays:
        """Read the final model's arrays by name."""
        return dict(load_file(self.folder / "model.safetensors"))

    def __repr__(self) -> str:
        metrics = ", ".join(f"{k}={v:.4f}" for k, v in self.metrics.items() if isinstance(v, float))
        return f"Result({self.summary['strategy']}, {self.summary['status']}, {metrics}, folder={str(self.folder)!r})"


def finish(
    coordinator: Coordinator,
    folder: RunFolder,
    status: str,
    *,
    weights: Arrays | None = None,
    engine: str | None = None,
    workers: int = 0,
    workers_rss_mb: float = 0.0,
) -> dict[str, Any]:
    """Write model.safetensors and summary.json; give the summary.

    `weights` are those of the global model unless the caller has others. `seconds` is the time of all rounds, those
    before a resume included; `engine` names what carried them, `workers` is 0 where the clients run elsewhere.
    """
    config, records = coordinator.config, coordinator.records
    weights = coordinator.committed if weights is None else weights
    summary = {
        "name": config.name,
        "strategy": config.strategy,
        "engine": engine or config.engine.kind,
        "workers": workers,
        "seed": config.seed,
        "rounds": records.rounds,
        "clients": len(coordinator.roster),
        "status": status,
        "metrics": nested(records.metrics),
        "best": nested(records.best),
        "bytes_up": records.totals["bytes_up"],
        "bytes_down": records.totals["bytes_down"],
        "failures": records.totals["failures"],
        "refused": records.refused,
        "seconds": round(records.totals["seconds"], 3),
        "peak_rss_mb": round(peak_rss_mb() + workers_rss_mb, 1),
        "model_sha256": digest(weights),
        "versions": versions(),
    }
    folder.write_model(weights, Inputs.of(coordinator.federation.dataset))
    folder.write_summary(summary)
    coordinator.callback.on_end(summary)
    return summary
