"""This process's end of the nursery (nursery.py): it is started here, asked for workers, and told to end them.

It imports nothing heavy: a command begins the nursery before it imports torch itself, so that both do it at once.
"""

import atexit
import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from threading import RLock

NUMBER = struct.Struct("i")
"""A request, or what is told on a status pipe."""


def working_folder() -> str:
    """Give the working folder; empty where it was removed meanwhile."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def module_path() -> list[str]:
    """Give where this process finds modules, the working folder by its name."""
    here = working_folder()
    return [place for entry in sys.path if (place := entry or here)]


class Child:
    """A process that a nursery forked, or will when it has come up. `requests` is the socket of that nursery."""

    def __init__(self, requests: socket.socket, status: int) -> None:
        self._requests, self._status = requests, status
        self._told: list[int] = []
        self._open = True

    def _read(self, count: int, *, wait: bool) -> bool:
        """Read what the nursery told, until so many numbers are there; False where no more will come, or not yet."""
        while len(self._told) < count and self._open:
            if not wait and not select.select([self._status], [], [], 0)[0]:
                return False
            data = os.read(self._status, NUMBER.size)
            self._told += NUMBER.unpack(data) if data else ()
            if not data:
                self._hear_no_more()
        return len(self._told) >= count

    def _hear_no_more(self) -> None:
        if self._open:
            self._open = False
            os.close(self._status)

    @property
    def pid(self) -> int:
        """The process's id; waits until it was forked. Raises ProcessLookupError where it never will be."""
        if not self._read(1, wait=True):
            raise ProcessLookupError("the nursery ended before it forked this worker")
        return self._told[0]

    @property
    def news(self) -> list[int]:
        """The descriptor, if there is one still, on which something can be read whenever there is news of it."""
        return [self._status] if self._open else []

    def ended(self) -> bool:
        """Say whether its nursery has told that it has ended; for ever False where the nursery has died before."""
        return self._read(2, wait=False)

    def wait(self) -> int:
        """Wait until it has ended; give its exit code, negative for a signal.

        Where its nursery is gone nobody knows how it ended: 1, whatever ended the nursery.
        """
        return self._told[1] if self._read(2, wait=True) else 1

    def end(self) -> None:
        """Kill it and wait. One that was not forked yet is left to its lifeline, which is closed before this."""
        if self._read(1, wait=False) and not self.ended():
            self._kill()
            self._read(2, wait=True)
        self._hear_no_more()

    def _kill(self) -> None:
        try:  # by its nursery, which alone knows that the number is still its own
            self._requests.sendall(NUMBER.pack(self._told[0]))
        except OSError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._told[0], signal.SIGKILL)


class Nursery:
    """Starts the nursery when it is first needed, and anew where it has died; one for all pools of this process."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._owner, self._asked = 0, False

    def begin(self) -> None:
        """Start it unless it runs. What it needs of this process's state is sent along with each request."""
        with self._lock:
            if self._owner != os.getpid():  # a fork of the process that began it has to have its own
                self._process = self._socket = None
            if self._process is not None and self._process.poll() is None:
                return
            self.end()
            ours, theirs = socket.socketpair()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fedbox.simulations.nursery", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C reaches only us; lifelines end the workers
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(module_path()),
                    "OMP_NUM_THREADS": "1",
                    "MKL_NUM_THREADS": "1",
                },
            )
            theirs.close()
            self._socket, self._owner, self._asked = ours, os.getpid(), False

    def fork(self, fds: list[int]) -> Child:
        """Ask for a worker with these descriptors (nursery.py tells which); it begins once the nursery has come up."""
        status, theirs = os.pipe()
        try:
            with self._lock:
                for attempt in (1, 2):
                    self.begin()
                    assert self._socket is not None
                    try:
                        socket.send_fds(self._socket, [NUMBER.pack(0)], [1, 2, theirs, *fds])
                        break
                    except (BrokenPipeError, ConnectionResetError):  # it died a moment ago
                        if attempt == 2:
                            raise
                        self.end()
                self._asked = True
                assert self._socket is not None
                return Child(self._socket, status)
        except BaseException:
            os.close(status)
            raise
        finally:
            os.close(theirs)

    def dismiss(self) -> None:
        """End it if it was begun in vain: nobody asked it for a worker."""
        with self._lock:
            if not self._asked:
                self.end(kill=True)

    def end(self, kill: bool = False) -> None:
        """End it: it goes when its socket closes, and takes with it the workers that nobody has closed."""
        with self._lock:
            process, self._process = self._process, None
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            if process is not None and self._owner == os.getpid():
                if kill:
                    process.kill()
                try:
                    process.wait()
                except BaseException:  # Ctrl-C once more: it may still be importing
                    process.kill()
                    raise


NURSERY = Nursery()


@atexit.register
def _leave() -> None:
    with contextlib.suppress(KeyboardInterrupt):  # the command has told its end already
        NURSERY.dismiss()  # a command that failed at once does not wait until it has imported torch
        NURSERY.end()


def begin_early(workers: object, engine: object) -> None:
    """Begin the nursery, which then imports torch while this process does, if what was asked for may need workers.

    The configuration may still say otherwise; then `dismiss` ends it.
    """
    if workers != 1 and engine in (None, "inprocess") and (os.cpu_count() or 1) > 1:
        NURSERY.begin()
