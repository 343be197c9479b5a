"""One model, whatever runs it: the hashes of four strategies on every engine, as a table.

    python benchmarks/parity.py [--quick] [--json FILE] [--only STRATEGY ...] [--engines ENGINE ...]

Small federations of three clients with: one, two and four workers; a Ray cluster of one node and one of
two nodes (raylets with object stores of their own on this machine, an actor on each); three clients over gRPC with TLS,
each a process. The plain path rounds otherwise, so its weights are held against those of the fast one, in float64 where
the strategy can. Exit code 1 when a row has more than one hash, or the plain path is off by more than 1e-12 (1e-5).
Where Ray is not installed its columns are left out. See docs/determinism.md.
"""

import argparse
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from contest import difference
from safetensors.numpy import load_file

import fedbox
from fedbox.client.state import StateStore
from fedbox.configs import load_config, to_yaml
from fedbox.server.certificates import make_certificates
from fedbox.server.records import digest
from fedbox.simulations.run import Parts, run_config
from fedbox.strategies.registry import find
from fedbox.testing.double import DoubleFederation

CLIENTS = 3
ENGINES = ("workers", "plain", "grpc", "ray")
DIGITS = {"dataset": "digits", "options": {"limit": 300, "test_limit": 60}}
SPLIT = {"kind": "dirichlet", "alpha": 0.5, "clients": CLIENTS}
TRAIN = {"batch_size": 16, "lr": 0.05, "view": "weak", "flip": False}
ROWS: dict[str, dict[str, Any]] = {
    "fedavg": {"model": "cnn", "data": {**DIGITS, "partition": SPLIT}, "train": {**TRAIN, "momentum": 0.9}},
    "fedsto": {
        "settings": {"fedsto": {"warmup": 1, "selective": 1, "low": 0.1, "high": 0.2}},
        "model": {"name": "detector", "options": {"size": "nano", "norm": "batch"}},
        "data": {
            "dataset": "scenes",
            "options": {"samples": 64, "test_samples": 8, "size": 64},
            "partition": {"kind": "natural", "key": "weather", "clients": CLIENTS},
            "server": {"value": "cloudy"},
            "labels": {"share": 0.0},
        },
        "train": {"batch_size": 8, "optimizer": "adamw", "lr": 0.002, "view": "strong"},
    },
    "fedlabel": {
        "model": "mlp",
        "data": {**DIGITS, "partition": SPLIT, "labels": {"share": 0.3}},
        "train": TRAIN,
    },
    "fedsa": {
        "model": [
            {"name": "cnn", "options": {"features": 16}},
            {"name": "mlp", "options": {"features": 16}},
            {"name": "resnet", "options": {"features": 16, "width": 8}},
        ],
        "data": {**DIGITS, "partition": SPLIT, "test_share": 0.25},
        "train": TRAIN,
        "evaluate": {"clients": "all", "personal": "clients"},
    },
}
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
"""Largest difference of a weight between the plain path and the fast one, which round otherwise."""
PLAIN: dict[str, dict[str, Any]] = {
    "fedsto": {"train": {**ROWS["fedsto"]["train"], "optimizer": "sgd", "lr": 0.01}},
}
"""What the plain path is compared with in place of the row. AdamW divides a gradient by its own size, so of a weight
before a BatchNorm, whose gradient is near nothing, it makes steps out of rounding: the paths part by 2e-9 in three
rounds and by 4e-3 in six, where by SGD they stay within 1e-14."""
SINGLE = ("fedsa",)  # held against each other in float32: its prototypes have no other type


@dataclass
class Run:
    """Where the runs of a strategy go, and what came of them."""

    strategy: str
    folder: Path
    rounds: int
    hashes: dict[str, str] = field(default_factory=dict)

    def config(self, **engine: Any) -> dict[str, Any]:
        """Give the configuration with an engine."""
        return {
            "name": "parity", "strategy": self.strategy, "rounds": self.rounds, **ROWS[self.strategy],
            "engine": {"workers": 1, **engine},
        }  # fmt: skip

    def simulate(self, column: str, **engine: Any) -> None:
        """Run it here and note the hash. Raises SystemExit where a client failed."""
        done = fedbox.run(self.config(**engine), out=self.folder / column, quiet=True, report=False)
        if done.summary["failures"]:
            raise SystemExit(f"{self.strategy}, {column}: {done.summary['failures']} clients failed")
        self.hashes[column] = done.summary["model_sha256"]

    def final(self, kind: str) -> dict[str, Any]:
        """Run it here on an engine, in float64 where the strategy can, and give the final weights."""
        parts = Parts() if self.strategy in SINGLE else Parts(prepare=DoubleFederation.prepare)
        out = self.folder / f"{kind}, weights"
        run_config(
            load_config(self.config(kind=kind) | PLAIN.get(self.strategy, {})),
            out=out,
            progress=False,
            report=False,
            parts=parts,
        )
        return dict(load_file(out / "model.safetensors"))


def over_grpc(run: Run, column: str, pki: Path) -> None:
    """Serve it to three clients, each a process, over TLS with client certificates, and note the hash."""
    here = run.folder / column
    here.mkdir()
    (here / "run.yaml").write_text(to_yaml(load_config(run.config())), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    names = [f"client-{number}" for number in range(CLIENTS)]
    commands = {"server": ["serve", "run.yaml", "--listen", f"127.0.0.1:{port}", "--out", "served"]}
    commands |= {name: ["join", f"localhost:{port}", "--name", name, "--state", f"state/{name}"] for name in names}
    with ExitStack() as stack:
        running = {}
        for who, words in commands.items():
            tls = ["--cert", str(pki / f"{who}.pem"), "--key", str(pki / f"{who}.key"), "--ca", str(pki / "ca.pem")]
            log = stack.enter_context((here / f"{who}.log").open("wb"))
            running[who] = subprocess.Popen(
                [sys.executable, "-m", "fedbox", *words, *tls],
                cwd=here, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            stack.callback(_end, running[who])
        for who, process in running.items():
            if process.wait(600):
                raise SystemExit(
                    f"{run.strategy}, {column}: {who} failed:\n{(here / f'{who}.log').read_text()[-2000:]}"
                )
    summary = json.loads((here / "served" / "summary.json").read_text(encoding="utf-8"))
    if summary["failures"]:
        raise SystemExit(f"{run.strategy}, {column}: {summary['failures']} clients failed")
    run.hashes[column] = _personal(here, run.rounds) if find(run.strategy).client.personal else summary["model_sha256"]


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


def _personal(folder: Path, rounds: int) -> str:
    """Give the hash of what the clients keep, each on its own disk, named as in the model of a simulation."""
    kept = {}
    for place in sorted(folder.glob("state/*/*/clients")):
        for client, arrays in StateStore(place).after(rounds):
            kept |= {f"{client}/{name}": value for name, value in arrays.items()}
    return digest(kept)


def on_ray(runs: list[Run], tell: Callable[[str], None]) -> None:
    """Run all of it on a cluster of one node, then on the same with a second node and an actor on each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    place = tempfile.mkdtemp(prefix="ray-")  # short: the names of Unix sockets have at most 107 characters
    each = {"num_cpus": 2, "include_dashboard": False}
    cluster = Cluster(True, head_node_args={**each, "temp_dir": place})
    try:
        for column, cpus in (("ray, one node", 1.0), ("ray, two nodes", 2.0)):  # an actor that claims all of a node
            if cpus == 2.0:
                cluster.add_node(**each)
                cluster.wait_for_nodes()
            for run in runs:
                tell(f"{run.strategy}, {column}")
                run.simulate(column, kind="ray", ray={"address": cluster.address, "actors": 2, "cpus": cpus})
    finally:
        cluster.shutdown()
        shutil.rmtree(place, ignore_errors=True)


def measure(folder: Path, strategies: list[str], engines: list[str], rounds: int) -> dict[str, Any]:
    """Run everything; give hashes by strategy and engine, and how far the plain path is off."""
    began = time.monotonic()
    logging.getLogger("fedbox.server.pictures").setLevel(logging.ERROR)  # there are no pictures of float64 models

    def tell(text: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {text}", file=sys.stderr, flush=True)

    make_certificates(folder / "pki", ["localhost"], [f"client-{number}" for number in range(CLIENTS)])
    runs = [Run(name, folder / name, rounds) for name in strategies]
    plain: dict[str, float] = {}
    for run in runs:
        run.folder.mkdir()
        for workers in (1, 2, 4) if "workers" in engines else (1,):
            tell(f"{run.strategy}, {workers} worker(s)")
            run.simulate(f"{workers} worker" + "s" * (workers > 1), workers=workers)
        if "plain" in engines:
            tell(f"{run.strategy}, plain")
            plain[run.strategy] = difference(run.final("inprocess"), run.final("plain"))
        if "grpc" in engines:
            tell(f"{run.strategy}, gRPC")
            over_grpc(run, "gRPC", folder / "pki")
    if "ray" in engines and find_spec("ray") is None:
        tell("Ray is left out: it is not installed (pip install 'fedbox[ray]')")
    elif "ray" in engines:
        on_ray(runs, tell)
    return {"rounds": rounds, "hashes": {run.strategy: run.hashes for run in runs}, "plain": plain}


def show(found: dict[str, Any]) -> bool:
    """Print the table; say whether every row has one hash and a plain path within its tolerance."""
    columns = list(next(iter(found["hashes"].values())))
    print("| strategy | " + " | ".join(columns) + " | plain: largest difference |")
    print("|---" * (len(columns) + 2) + "|")
    good = True
    for strategy, hashes in found["hashes"].items():
        apart, kind = found["plain"].get(strategy), "float32" if strategy in SINGLE else "float64"
        off = "-" if apart is None else f"{apart:.1e} ({kind})"
        print(f"| {strategy} | " + " | ".join(f"`{hashes[c][:12]}`" for c in columns) + f" | {off} |")
        if len(set(hashes.values())) > 1:
            print(f"{strategy}: the engines do not agree", file=sys.stderr)
            good = False
        if apart is not None and not apart <= TOLERANCE[kind]:
            print(f"{strategy}: the plain path differs by {apart:g}, more than {TOLERANCE[kind]:g}", file=sys.stderr)
            good = False
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds in place of six")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the hashes to FILE")
    parser.add_argument(
        "--only", nargs="+", choices=ROWS, metavar="STRATEGY", default=list(ROWS), help="leave others out"
    )
    parser.add_argument("--engines", nargs="+", choices=ENGINES, metavar="ENGINE", default=list(ENGINES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = measure(Path(place), options.only, options.engines, 3 if options.quick else 6)
    good = show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
