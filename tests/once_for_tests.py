"""What a client of `plugins_for_tests:trouble` does once: while the file of its settings exists."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from fedbox.strategies.contract import Update


def kill(update: Update) -> Update:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)
    return update


def _kill_once(update: Update, file: Path) -> Update:
    file.unlink()
    return kill(update)


def _leave_child(update: Update, file: Path) -> Update:
    """Die, but for a process that holds open what this one had; the file's new name tells which."""
    child = os.fork()
    if child == 0:
        time.sleep(100)
        os._exit(0)
    file.rename(f"{file}-{child}")
    return kill(update)


def _memory_once(update: Update, file: Path) -> Update:
    file.unlink()
    torch.empty(2**50)  # torch itself raises: more than any machine has
    return update


def _kill_node(update: Update, file: Path) -> Update:
    """Kill a node of Ray, the parent of its actors, where this is one of them; the file names it."""
    try:
        if int(file.read_text()) != os.getppid():
            return update
        file.unlink()
    except FileNotFoundError:  # another client was first
        return update
    os.kill(os.getppid(), signal.SIGKILL)
    return kill(update)


def _kill_actors(update: Update, file: Path) -> Update:
    """Kill all actors of this node, itself the last."""
    file.unlink()
    victims: list[int] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, rest = status.read_text().split("(", 1)[1].rsplit(")", 1)
            if name.startswith("ray::Resident") and int(rest.split()[1]) == os.getppid():
                victims.append(int(status.parent.name))
    for victim in victims:
        if victim != os.getpid():
            os.kill(victim, signal.SIGKILL)
    return kill(update)


ONCE: dict[str, Callable[[Update, Path], Update]] = {
    "kill-once": _kill_once,
    "leave-child": _leave_child,
    "memory-once": _memory_once,
    "kill-node": _kill_node,
    "kill-actors": _kill_actors,
}
