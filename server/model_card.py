"""The model card of a bundle, in the form that the Hugging Face hub reads: facts as YAML, then words."""

import json
import math
from collections.abc import Mapping
from typing import Any

from ..configs import Config
from .groups import flatten
from .stats import SCORES, human_bytes, number, printable

_VERSIONED = ("fedbox", "torch", "numpy", "flwr", "flwr-datasets")
_APART = ("name", "seed", "rounds", "strategy", "engine")  # told elsewhere, or without influence
_TASKS = {"accuracy": "image-classification", "map50": "object-detection"}


def model_card(files: Mapping[str, bytes]) -> str:
    """Give README.md for a bundle's files: config.yaml, rounds.jsonl, summary.json, environment.json."""
    import yaml

    config = yaml.safe_load(files["config.yaml"].decode())
    summary = json.loads(files["summary.json"])
    environment = json.loads(files["environment.json"])
    dataset = str(config["data"]["dataset"])
    metrics = {k: float(v) for k, v in summary["metrics"].items() if isinstance(v, int | float) and math.isfinite(v)}
    score = next((name for name in SCORES if name in metrics), next(iter(metrics), "accuracy"))
    metrics = {score: metrics.pop(score), **metrics} if score in metrics else metrics
    task = "text-classification" if dataset == "topics" else _TASKS.get(score, "image-classification")
    name = str(summary["name"])
    results = {
        "task": {"type": task},
        "dataset": {"name": dataset, "type": dataset},
        "metrics": [{"type": key, "value": value, "name": key.replace("_", " ")} for key, value in metrics.items()],
    }
    head = {
        "library_name": "fedbox",
        "pipeline_tag": task,
        "tags": ["federated-learning", "fedbox", str(summary["strategy"])],
        "model-index": [{"name": name, "results": [results]}],
    }
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---\n",
        f"# {_plain(name)}\n",
        _opening(summary, config, score, metrics),
        _figures(summary, metrics),
        _setting(summary, config),
        _again(summary, environment),
        _limits(summary, environment),
    ]
    return "\n".join(parts)


def _plain(text: object) -> str:
    """Give text in which Markdown sees no mark."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|" else c for c in printable(text))


def _opening(summary: Mapping[str, Any], config: Mapping[str, Any], score: str, metrics: Mapping[str, float]) -> str:
    value = f", {_plain(score)} {number(metrics[score])}" if score in metrics else ""
    network = config["model"].get("name") if isinstance(config.get("model"), dict) else config.get("model")
    family = config["model"].get("family") if isinstance(config.get("model"), dict) else None
    what = "several networks" if family else f"a `{printable(network)}`"
    return (
        f"Trained by federated learning with [fedbox](https://pypi.org/project/fedbox/): {what} by "
        f"`{printable(summary['strategy'])}` on `{printable(config['data']['dataset'])}`, {summary['clients']} "
        f"clients, {summary['rounds']} round(s), seed {summary['seed']}{value}.\n"
    )


def _figures(summary: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    rows = ["## Figures\n", "| metric | after the last round | best | in round |", "|---|---|---|---|"]
    for key, value in metrics.items():
        best = summary.get("best", {}).get(key) or {}
        at = best.get("round")
        rows.append(f"| {_plain(key)} | {number(value)} | {number(float(best.get('value', math.nan)))} | {at or ''} |")
    rows.append("\nMetrics by domain and class, and those of every round, are in `summary.json` and `rounds.jsonl`.\n")
    return "\n".join(rows)


def _setting(summary: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    plain = flatten(Config().model_dump(mode="json"))
    told = flatten({key: value for key, value in config.items() if key not in _APART})
    kept = {key: value for key, value in told.items() if plain.get(key) != value or key == "data.dataset"}
    rows = [f"| `{key}` | `{printable(value)[:80].replace('|', '/')}` |" for key, value in kept.items()]
    sent = f"{human_bytes(summary['bytes_up'])} up, {human_bytes(summary['bytes_down'])} down"
    return "\n".join(
        ["## How it was trained\n", f"Sent in all: {sent}. Failures of clients: {summary['failures']}.\n",
         "| key | value |", "|---|---|", *rows, "\nThese keys differ from the defaults; `config.yaml` has all.\n"]
    )  # fmt: skip


def _again(summary: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    told = environment.get("versions", {})
    pins = " ".join(f"'{name}=={str(told[name]).partition('+')[0]}'" for name in _VERSIONED if name in told)
    lines = ["## Run it again\n", "```bash", f"pip install {pins}", "fedbox run BUNDLE.zip", "```\n"]
    lines.append(f"trains it anew and compares the models' hashes; this one's is `{summary['model_sha256']}`.\n")
    lines.append("It ran with:\n")
    lines += ["| what | version |", "|---|---|", *(f"| {_plain(k)} | {_plain(v)} |" for k, v in told.items())]
    origin = printable(environment.get("strategy_from"))
    lines.append(f"\nThe strategy is from {_plain(origin)}.")
    for key, need in environment.get("needs", {}).items():
        lines.append(f"It needs a file or folder that is not in the bundle: give it as `{key}=...`.")
        if need.get("sha256"):
            lines.append(f"The file's SHA-256 was `{need['sha256']}`.")
    return "\n".join([*lines, ""])


def _limits(summary: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    return (
        "## What to know\n\n"
        "- No data is in this bundle. `rounds.jsonl` holds figures of single clients under their names.\n"
        "- `model.safetensors` holds the arrays by name; for personal models as CLIENT/NAME, what they share as "
        "server/NAME. `model.weights=model.safetensors` starts another run from them.\n"
        "- No licence was chosen. Add one to the first lines of this file before you publish it.\n"
        "- The model was measured on the test data named above and on nothing else.\n"
    )
