"""How fast the engines are: against a bare PyTorch loop, Flower's Ray simulation and pfl; memory; a detector.

    python benchmarks/engines.py [--quick] [--json FILE] [--only PART ...] [--turns N]

Parts: cnn, mlp, resnet, small, small_mlp (`race.py`: twenty clients, one epoch of plain SGD), flower (`peers.py`),
memory (`memory.py`), detection (`detection.py`, FedSTO). Where pfl can be had it takes its turns in the races
(`pfl_peer.py`). All ratios say how many times faster fedbox is. See benchmarks/README.md.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import detection
import memory
import peers
import pfl_peer
from contest import machine
from race import LOOP, ONE, PFL, STACKS, TWO, WARM_UP, WORKS, race

from fedbox.models.process import settle

PARTS = (*WORKS, "flower", "memory", "detection")
DETECTION = {"detection": 3, "detection_4_clients": 4}
"""Clients: those of FedSTO's configuration, of which two workers have two and one, and twice two."""
FLOWER_QUICK = ("cnn",)
FLOWER_WORKS = ("cnn", "mlp", "resnet", "small")
_BEGAN = time.monotonic()


def tell(part: str) -> Callable[[str], None]:
    """Give what shows how far a part is."""

    def show(text: str) -> None:
        line = f"[{time.monotonic() - _BEGAN:4.0f} s] {part}: {text}"
        end = "" if sys.stderr.isatty() else "\n"
        print(f"\r\033[K{line}" if sys.stderr.isatty() else line, end=end, file=sys.stderr, flush=True)

    return show


def measure(parts: list[str], quick: bool, turns: int) -> dict[str, Any]:
    """Measure the parts; give what stands in the JSON."""
    found: dict[str, Any] = {"machine": machine(), "ratios": {}, "one_worker": {}, "stacks": {}, "races": {}}
    works = [name for name in WORKS if name in parts]
    missing = pfl_peer.provide() if works else "no race was run"
    found["pfl"] = {"skipped": missing} if missing else {"version": pfl_peer.VERSION, "one_worker": {}, "loop": {}}
    for name in works:
        result = race(WORKS[name], turns, missing is None, tell(name), 1 if quick else WARM_UP)
        found["races"][name] = result
        found["ratios"][name] = result["faster"][TWO]["ratio"]
        found["one_worker"][name] = result["faster"][ONE]["ratio"]
        found["stacks"][name] = result["faster"][STACKS]["ratio"]
        if missing is None:
            middle = {key: statistics.median(values) for key, values in result["seconds"].items()}
            found["pfl"][name] = middle[PFL] / middle[TWO]
            found["pfl"]["one_worker"][name] = middle[PFL] / middle[ONE]
            found["pfl"]["loop"][name] = middle[PFL] / middle[LOOP]
    if "flower" in parts:
        found["flower"] = flower(quick)
    if "memory" in parts:
        found["memory"] = memory.measure(quick, tell("memory"))
    if "detection" in parts:
        for name, clients in DETECTION.items():
            result = detection.race("fedsto", 1 if quick else 8, 2, tell(name), clients)
            found[name] = result
            found["ratios"][name] = 1 / result["ratios"]["workers_2"]
            found["one_worker"][name] = 1 / result["ratios"]["workers_1"]
    return found


def flower(quick: bool) -> dict[str, Any]:
    """Compare with Flower's simulation; `flower.NAME` is how many times faster a round of fedbox is."""
    single = {
        name: peers.compare(name, 4 if quick else 15, 1 if quick else 3, tell(f"flower, {name}"))
        for name in (FLOWER_QUICK if quick else FLOWER_WORKS)
    }
    first = {
        program: statistics.median(each["first_round_seconds"][program] for each in single.values())
        for program in peers.PROGRAMS
    }
    ratios = {name: each["ratio"] for name, each in single.items()}
    return {**ratios, "first_round_seconds": first, "single": single}


def table(head: list[str], rows: list[list[Any]]) -> None:
    """Print a table."""
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else f"{cell}" for cell in row) + " |")


def show(found: dict[str, Any]) -> None:
    """Print everything as tables."""
    if found["races"]:
        heads = ["work", "contestant", "ms a round", "times faster than the loop", "turn by turn: least", "most"]
        rows: list[list[Any]] = []
        for work, result in found["races"].items():
            for name, seconds in result["seconds"].items():
                each = result["faster"].get(name, {"ratio": 1.0, "least": 1.0, "most": 1.0})
                times = [round(each[key], 2) for key in ("ratio", "least", "most")]
                rows.append([work, name, f"{1e3 * statistics.median(seconds):.1f}", *times])
        table(heads, rows)
        apart = max(result["largest_difference"] for result in found["races"].values())
        bits = all(result["same_bits"] for result in found["races"].values())
        print(f"\nlargest difference of a weight after a round: {apart:.1e}; same bits on one worker and two: {bits}")
    if "skipped" in found["pfl"] and found["races"]:
        print(f"\npfl was left out: {found['pfl']['skipped']}")
    if "flower" in found:
        rows = []
        for work, each in found["flower"]["single"].items():
            for program in peers.PROGRAMS:
                middle, first = each["seconds_a_round"][program], each["first_round_seconds"][program]
                rows.append([work, program, f"{middle:.3f}", f"{first:.1f}", round(each["ratio"], 2)])
        table(["work", "program, two processes", "s a round", "s to the end of round 1", "times faster"], rows)
    if "memory" in found:
        keys = ("ready_mb", "first_round_mb", "peak_mb")
        table(
            ["population", "cohort", "s a round", "MB when ready", "MB after round 1", "MB at the end"],
            [
                [
                    f"{row['population']:,}",
                    f"{row['cohort']:,}",
                    f"{row['seconds']:.3f}",
                    *(f"{row[k]:.0f}" for k in keys),
                ]
                for row in found["memory"].values()
            ],
        )
    if "detection" in found:
        rows = [
            [clients, name, f"{rate:.1f}", round(1 / found[part]["ratios"].get(name, 1.0), 2)]
            for part, clients in DETECTION.items()
            for name, rate in found[part]["images_per_second"].items()
        ]
        table(["FedSTO: clients", "contestant", "images a second", "times faster than the loop"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few turns: shows that it works, not how fast it is")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, metavar="PART", default=list(PARTS), help="leave others out"
    )
    parser.add_argument(
        "--turns", type=int, metavar="N", help="turns of a race that count [default: 25; with --quick 2]"
    )
    options = parser.parse_args()
    if options.turns is not None and options.turns < 1:
        parser.error(f"--turns is {options.turns}; give at least 1")
    settle()
    found = measure(options.only, options.quick, options.turns or (2 if options.quick else 25))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
