"""The process that workers are forked from: it has imported all that they need, makes them, and tells how they end.

Started as `python -m fedbox.simulations.nursery FD`, FD a socket. A request on it is a number: 0, with descriptors,
asks for a worker; any other is the id of one that is to be killed. The first descriptors are the worker's stdout and
stderr and its status pipe, on which its id is written when it begins and its exit code when it has ended; the others
are what `worker.main` takes. The nursery runs one thread, no gRPC and nothing on a GPU, so that a fork of it is whole.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import traceback

from . import worker
from .forking import NUMBER

MOST_FDS = 16  # descriptors of a request


class Nursery:
    """Makes workers until the socket closes."""

    def __init__(self, requests: socket.socket) -> None:
        self.requests = requests
        self.statuses: dict[int, int] = {}
        self._bell, bell = os.pipe()
        os.set_blocking(bell, False)
        os.set_blocking(self._bell, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(bell, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Answer requests, and tell how workers end."""
        while True:
            asked = self.requests.fileno()
            ready, _, _ = select.select([asked, self._bell], [], [])
            if self._bell in ready:
                self._reap()
            if asked in ready:
                data, fds, _, _ = socket.recv_fds(self.requests, NUMBER.size, MOST_FDS)
                if len(data) < NUMBER.size:
                    self._orphan()
                    return
                (pid,) = NUMBER.unpack(data)
                if pid == 0:
                    self._fork(fds)
                elif pid in self.statuses:  # not reaped, so the number is still this worker's
                    os.kill(pid, signal.SIGKILL)

    def _fork(self, fds: list[int]) -> None:
        out, err, status, *own = fds
        try:
            pid = os.fork()
        except OSError as error:  # told as the end of a worker that never began
            os.write(err, f"fedbox: no worker could be forked: {error}\n".encode())
            _tell(status, -1, 1)
            pid = -1
        if pid == 0:
            self._become(out, err, [status, *self.statuses.values()], own)
        for fd in fds if pid < 0 else (out, err, *own):
            os.close(fd)
        if pid > 0:
            self.statuses[pid] = status
            _tell(status, pid)

    def _become(self, out: int, err: int, not_ours: list[int], own: list[int]) -> None:
        """Be a worker, and end as one."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.requests.close()
            for source, place in ((out, 1), (err, 2)):
                os.dup2(source, place)
            for fd in (out, err, *not_ours):
                os.close(fd)
            worker.main(*own)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    if stream is not None:  # None where the nursery began without it
                        stream.flush()
            os._exit(code)

    def _orphan(self) -> None:
        """Kill the workers that are left: a lifeline ends none whose client holds Python's lock, perhaps for ever."""
        self._reap()
        for pid in self.statuses:  # not reaped, so the numbers are still theirs
            os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell, 4096)
        while self.statuses:
            pid, code = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            status = self.statuses.pop(pid)
            _tell(status, os.waitstatus_to_exitcode(code))
            os.close(status)


def _tell(status: int, *numbers: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody asks any more
        os.write(status, b"".join(map(NUMBER.pack, numbers)))


def main() -> None:
    """Serve until the process that asked is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked
    gc.collect()
    gc.freeze()  # pages that no collection touches stay shared with the workers
    Nursery(socket.socket(fileno=int(sys.argv[1]))).serve()
    os._exit(0)


if __name__ == "__main__":
    main()
