"""A Ray cluster, started here or joined by its address: within seconds, or with a clear error."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

import ray

from ..configs import ConfigError, Fault
from ..configs.schema import RayConfig

_CONNECT = 4.0  # seconds that an address has to answer
_LOCAL_STARTS = 3  # attempts to start a cluster here
_UP = 60.0  # seconds that Ray has to come up, to be ended again
_TOKEN = "it wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN unless the token lies in ~/.ray/auth_token"

_apart = Event()  # set while a process that is forked here gets a group of its own


class Cluster:
    """A Ray cluster that is started here, or joined, and left by `close`; there is one at a time.

    Ray comes up on a thread of its own. The main thread, where signals arrive, waits for it: Ray that is broken off in
    the middle does not let the process end, and its own handler of SIGTERM it puts on the main thread alone. That
    thread stays until `close`, as the kernel ends what Ray has started when the thread ends that started it.
    """

    def __init__(self, config: RayConfig, workers: int) -> None:
        """Start a cluster of `workers` cores here or join one.

        Raises ConfigError when the address does not answer, within seconds, and KeyboardInterrupt when a signal came.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray must not phone home
        options = {"include_dashboard": False, "num_cpus": workers} if config.address is None else {}
        self._came, self._left = SimpleQueue[BaseException | None](), Event()
        if config.address not in (None, "auto"):
            _knock(config.address)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            Thread(target=self._keep, args=(config.address, options), daemon=True).start()
            error = self._came.get()
        except KeyboardInterrupt:
            signal.alarm(0)  # of Ray's C++ handler, which is there for a moment: it ends the process after 3 s
            with suppress(Empty):
                self._came.get(timeout=_UP)
            self.close()
            raise
        finally:
            if handler is not None:
                with suppress(ValueError):  # not the main thread
                    signal.signal(signal.SIGTERM, handler)
        if error is not None:
            raise error

    def _keep(self, address: str | None, options: dict[str, Any]) -> None:
        try:
            with _groups_of_their_own():
                _init(address, options)
        except BaseException as error:
            self._came.put(error)
        else:
            self._came.put(None)
            self._left.wait()

    def close(self) -> None:
        """Leave the cluster, and end it where it was started here."""
        ray.shutdown()
        self._left.set()


def actors_of(config: RayConfig, gpus: float) -> int:
    """Give the number of actors, each with so many GPUs. Raises ConfigError where the cluster has no room for them."""
    have = ray.cluster_resources()
    room = 0
    for node in ray.nodes():  # an actor lies on one node: what is left over on two makes none
        if node["Alive"]:
            has = node["Resources"]
            fits = int(has.get("CPU", 0) / config.cpus)
            room += min(fits, int(has.get("GPU", 0) / gpus)) if gpus else fits
    wanted = config.actors or room
    if wanted > room or not wanted:
        problem = (
            f"the cluster has {have.get('CPU', 0):g} cores and {have.get('GPU', 0):g} GPUs, room for {room} actors "
            f"of engine.ray.cpus={config.cpus:g} and engine.ray.gpus={gpus:g}, "
            f"but {wanted or 'at least 1'} are wanted; lower one of the three"
        )
        raise ConfigError("given", [Fault("engine.ray.actors", problem)])
    return wanted


@contextmanager
def _groups_of_their_own() -> Iterator[None]:
    """Keep a signal to this program's process group from the processes that Ray starts meanwhile.

    Ctrl-C they do not hear anyway. By SIGTERM they would end before the run does, and with them, in the middle of what
    it still has to write, this process: Ray's client ends it, with exit code 1, when the object store is gone.
    """
    _apart.set()
    try:
        yield
    finally:
        _apart.clear()


def _part() -> None:
    if _apart.is_set():
        os.setpgid(0, 0)


os.register_at_fork(after_in_child=_part)  # Ray gives no choice; it starts its processes by a fork that calls this


def _init(address: str | None, options: dict[str, Any]) -> None:
    """Join the cluster, or start one; on a busy machine Ray's first process may come too late, and is tried again."""
    for left in reversed(range(1 if address else _LOCAL_STARTS)):
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level="error", **options)
            return
        except Exception as error:  # of any type: a node that came too late is told by a bare Exception
            ray.shutdown()
            if not left:
                raise _unanswered(address, str(error).splitlines()[0]) from error


def _knock(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise _unanswered(address, "it is not of the form host:port")
    try:
        socket.create_connection((host, int(port)), _CONNECT).close()
    except (OSError, OverflowError) as error:
        raise _unanswered(address, str(error)) from error
    # Ray itself waits for more than half a minute. What still waits then ends with the process.
    answers = SimpleQueue[str]()
    Thread(target=_ask, args=(address, answers), daemon=True).start()
    try:
        problem = answers.get(timeout=_CONNECT)
    except Empty:
        problem = "something listens there that is not the head of a Ray cluster"
    if problem:
        raise _unanswered(address, problem)


def _ask(address: str, answers: "SimpleQueue[str]") -> None:
    """Tell what is wrong with a cluster, or "" when it answers."""
    try:
        ray._raylet.GcsClient(address=address)
        answers.put("")
    except (ray.exceptions.RaySystemError, ray.exceptions.RpcError):
        pass  # it may be that Ray is too impatient: the time that an address has goes on
    except Exception as error:
        answers.put(_TOKEN if type(error).__name__ == "AuthenticationError" else str(error).partition("\n")[0])


def _unanswered(address: str | None, why: str) -> ConfigError:
    if address is None:
        problem = f"no Ray cluster could be started on this machine ({why}); the logs of Ray's last session tell more"
    else:
        problem = f"no Ray cluster answers at '{address}' ({why}); give the host:port that `ray start --head` shows"
    return ConfigError("given", [Fault("engine.ray.address", problem)])
