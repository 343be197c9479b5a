"""A finished run measured again, on other test data: the global model, and each client's own on its own domain."""

import json
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedbox.simulations.finished import evaluate


def measured(folder: Path, changes: Mapping[str, Any]) -> dict[str, float]:
    """Give a run's metrics under changes to its data, by the names that they have in a round's line.

    Those of the clients' own models are `personal_NAME_by_domain.DOMAIN`, the mean over the clients of the domain.
    They are kept in the run's folder.
    """
    kept = folder / "measured.json"
    if kept.is_file() and (found := json.loads(kept.read_text()))["changes"] == changes:
        return dict(found["metrics"])
    _, metrics, _ = evaluate(folder, changes)
    own: dict[str, list[float]] = {}
    for client, domain in _domains(folder).items():
        for name, value in evaluate(folder, changes, client=client)[1].items():
            if name.endswith(f"_by_domain.{domain}"):
                own.setdefault(f"personal_{name}", []).append(value)
    found = {**metrics, **{name: statistics.fmean(values) for name, values in own.items()}}
    kept.write_text(json.dumps({"changes": changes, "metrics": found}))
    return found


def _domains(folder: Path) -> dict[str, str]:
    """Give the domain of each client that kept a model, as partition.json tells it: `client-0 (rainy)`."""
    told = json.loads((folder / "partition.json").read_text())["names"] if (folder / "clients").is_dir() else []
    found = filter(None, (re.fullmatch(r"(\S+) \((.+)\)", name) for name in told))
    return {match[1]: match[2] for match in found if (folder / "clients" / match[1]).is_dir()}
