"""Seconds a round over a network: fedbox serve and join beside a Flower SuperLink with SuperNodes, in one run.

    python benchmarks/transport.py [--quick] [--json FILE] [--no-superlink] [--crowd N]
    python benchmarks/transport.py --large 1000    # only this: an array of 1 GB there and back, and peak memory

Both carry the same strategies to two clients on this machine, each a process, over TLS with client authentication, and
write the same records; a figure is the median of a round's seconds, the first one left out. `noop` sends a model of
some bytes and trains nothing, `cnn` trains a small network, `arrays_100mb` sends 100 MB to each client and back.
`wire` is what went over fedbox's lines against the arrays themselves; `crowd` is many clients in one process through
five rounds, with the server's peak memory. See benchmarks/README.md.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from contest import machine
from superlink import SuperLink

from fedbox.client.attendant import Attendant
from fedbox.client.grpc_line import ask_status
from fedbox.client.join import SiteWork
from fedbox.configs.tls import Identity, read_identity
from fedbox.server.certificates import make_certificates
from fedbox.server.pack import pack
from fedbox.server.records import read_rounds
from fedbox.server.session import check
from fedbox.strategies.base import identity

HERE = Path(__file__).resolve().parent
DATA = {"options": {"limit": 400, "test_limit": 100}, "partition": {"kind": "iid", "clients": 2}}
ECHO = {"strategy": "echo_plugin:plugin", "data": DATA, "model": {"name": "mlp", "options": {"hidden": 8}}}
WORK: dict[str, dict[str, Any]] = {
    "noop": ECHO,
    "cnn": {"strategy": "fedavg", "data": DATA, "model": "cnn"},
    "arrays_100mb": {**ECHO, "settings": {"echo_plugin": {"megabytes": 100}}},
}
PORT = 18200


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}


def config_of(name: str, rounds: int, **more: Any) -> dict[str, Any]:
    clean = name.replace("_", "-")
    return {"name": clean, "rounds": rounds, "evaluate": {"every": rounds}, **WORK.get(name, {}), **more}


def seconds_of(folder: Path) -> float:
    """Give the median seconds of a round, evaluation and the first round left out."""
    lines = read_rounds(folder / "rounds.jsonl")
    return statistics.median(line["seconds"]["total"] - line["seconds"].get("evaluate", 0.0) for line in lines[1:])


def start(folder: Path, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "fedbox", *arguments], stdout=log, stderr=log, cwd=HERE, env=environment()
        )


def peak_mb(process: "subprocess.Popen[bytes]") -> float:
    """Give the largest resident memory of a process so far, in MB; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM")), 0.0)


def ours(folder: Path, name: str, rounds: int, **more: Any) -> tuple[float, dict[str, float]]:
    """Run a piece of work over our own lines; give seconds a round, and the bytes and peaks of memory."""
    pki, out = folder.parent / "pki", folder / f"ours-{name}"
    make_certificates(pki, ["localhost"], ["client-0", "client-1"])
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(config_of(name, rounds, **more)))
    tls = ["--cert", str(pki / "server.pem"), "--key", str(pki / "server.key"), "--ca", str(pki / "ca.pem")]
    server = start(
        folder, f"serve-{name}", "serve", str(config), "--listen", f"127.0.0.1:{PORT}", *tls, "--out", str(out)
    )
    clients = []
    for number in range(2):
        who = f"client-{number}"
        tls = ["--cert", str(pki / f"{who}.pem"), "--key", str(pki / f"{who}.key"), "--ca", str(pki / "ca.pem")]
        state = str(folder / f"state-{name}")
        clients.append(
            start(folder, f"{who}-{name}", "join", f"localhost:{PORT}", "--name", who, *tls, "--state", state)
        )
    counted: dict[str, float] = {}
    peaks = {"server_mb": 0.0, "client_mb": 0.0}
    mine = read_identity(pki / "server.pem", pki / "server.key", pki / "ca.pem", insecure=False)
    while server.poll() is None:
        try:
            counted = json.loads(asyncio.run(ask_status(f"localhost:{PORT}", mine, timeout=2.0)))["counts"]
        except Exception:
            time.sleep(0.2)
        time.sleep(0.2)
        peaks["server_mb"] = max(peaks["server_mb"], peak_mb(server))
        peaks["client_mb"] = max(peaks["client_mb"], *map(peak_mb, clients))
    for process in clients:
        process.wait(60)
    if server.returncode:
        raise RuntimeError((folder / f"serve-{name}.log").read_text()[-2000:])
    return seconds_of(out), {**counted, **peaks}


def theirs(folder: Path, link: SuperLink, name: str, rounds: int) -> float:
    """Run it on the SuperLink."""
    config, out = check(config_of(name, rounds)), folder / f"theirs-{name}"
    link.run(pack(config, 2, folder / f"app-{name}", out))
    return seconds_of(out)


def wire(folder: Path) -> dict[str, float]:
    """Give the bytes on the line against those of the arrays, for 100 MB there and back."""
    rounds, payload = 3, 3 * 2 * 100_000_000
    _, counted = ours(folder, "arrays_100mb", rounds)
    return {way: counted.get(f"bytes_{way}", 0) / payload for way in ("down", "up")}


def large(folder: Path, megabytes: int) -> dict[str, float]:
    """Send one array of that size to two clients and back, for three rounds."""
    settings = {"echo_plugin": {"megabytes": megabytes, "each": megabytes}}
    seconds, counted = ours(folder, "large", 3, **{**ECHO, "settings": settings})
    return {"seconds_a_round": seconds, "server_mb": counted["server_mb"], "client_mb": counted["client_mb"]}


def crowd(folder: Path, number: int, rounds: int = 5) -> dict[str, float]:
    """Run many clients in this process through some rounds; give seconds and the server's peak memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    data = {"dataset": "digits", "partition": {"kind": "iid", "clients": number}}
    config = folder / "crowd.yaml"
    config.write_text(yaml.safe_dump(config_of("crowd", rounds, data=data, model=ECHO["model"])))
    out = folder / "crowd"
    server = start(
        folder, "crowd", "serve", str(config), "--listen", f"127.0.0.1:{PORT}", "--insecure", "--out", str(out)
    )
    names = [f"client-{i}" for i in range(number)]
    run_clients(f"127.0.0.1:{PORT}", names, folder, None)
    if server.wait(120):
        raise RuntimeError((folder / "crowd.log").read_text()[-2000:])
    summary = json.loads((out / "summary.json").read_text())
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return {
        "clients": summary["clients"],
        "rounds": summary["rounds"],
        "failures": summary["failures"],
        "seconds_a_round": seconds_of(out),
        "server_peak_mb": summary["peak_rss_mb"],
    }


def run_clients(target: str, names: list[str], folder: Path, mine: Identity | None) -> None:
    async def run() -> None:
        pool = ThreadPoolExecutor(1)
        work = [
            Attendant(target, name, mine, SiteWork(name, None, None, folder / "crowd-state"), pool) for name in names
        ]
        await asyncio.gather(*(each.run() for each in work))

    def thread() -> None:
        with identity(1):
            asyncio.run(run())

    running = threading.Thread(target=thread)
    running.start()
    running.join()


def measure(folder: Path, quick: bool, superlink: bool, number: int) -> dict[str, Any]:
    found: dict[str, Any] = {"ours": {}, "superlink": {}, "ratios": {}, "machine": machine()}
    for name in WORK:
        found["ours"][name], _ = ours(folder / name, name, 6 if quick else 21)
        print(f"fedbox, {name}: {found['ours'][name]:.3f} s a round", flush=True)
    if superlink:
        os.environ["PYTHONPATH"] = str(HERE)
        with SuperLink(folder / "superlink", 2, PORT + 100) as link:
            for name in WORK:
                found["superlink"][name] = theirs(folder, link, name, 3 if quick else 6)
                found["ratios"][name] = found["superlink"][name] / found["ours"][name]
                print(
                    f"SuperLink, {name}: {found['superlink'][name]:.2f} s a round, {found['ratios'][name]:.0f} times",
                    flush=True,
                )
    (folder / "wire").mkdir()
    found["wire"] = wire(folder / "wire")
    (folder / "many").mkdir()
    found["crowd"] = crowd(folder / "many", number)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a smaller crowd")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--no-superlink", action="store_true", help="leave Flower's SuperLink out")
    parser.add_argument("--crowd", type=int, help="clients in one process (default: 1000; quick: 100)")
    parser.add_argument("--large", type=int, metavar="MB", help="only send one array of so many MB, and measure memory")
    options = parser.parse_args()
    with TemporaryDirectory() as place:
        folder = Path(place)
        for name in WORK:
            (folder / name).mkdir()
        number = options.crowd or (100 if options.quick else 1000)
        if options.large:
            (folder / "large").mkdir()
            found: dict[str, Any] = {"large": large(folder / "large", options.large), "machine": machine()}
        else:
            found = measure(folder, options.quick, not options.no_superlink, number)
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
