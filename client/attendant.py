"""One client of a served run: it comes back by itself, and a finished reply waits until it is taken."""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Protocol

from ..configs.tls import Identity
from ..strategies import wire_pb2 as wire
from ..strategies.base import LOST, Error, Message, RecordDict, WireError, arrays_size
from ..strategies.frames import NEWEST, OLDEST, RELEASE, Intake, Outbox
from ..strategies.grids import FIRST_NODE
from .grpc_line import RefusedError, attend

log = logging.getLogger("fedbox.client")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 15.0
_STABLE = 3.0  # seconds after which a line counts as good, and the pauses begin anew
_Wanted = tuple[str, str, int, tuple[str, ...]]


class Work(Protocol):
    """What a client does on its line; both calls may take long, and are made on another thread."""

    def prepare(self, config: str, run: str, number: int, classes: Sequence[str]) -> dict[str, int]:
        """Get ready for a run; say what the client holds: labelled, unlabelled, test, classes.

        `classes` are the names of the server's, label 0 first; empty where it does not tell.
        """

    def answer(self, message: Message) -> Message:
        """Give the reply to a task's message, whatever happens."""


class Attendant:
    """One client: keeps a line to the server and works on what comes over it, one task at a time."""

    def __init__(self, target: str, name: str, identity: Identity | None, work: Work, pool: Executor) -> None:
        self.target, self.name = target, name
        self._identity = identity
        self._work, self._pool = work, pool
        self._held: dict[str, Message | None] = {}
        """Replies that the server has not settled; None while the task is under way."""
        self._waiting: dict[str, tuple[Intake, float | None]] = {}
        """Tasks that wait for their turn, each with the end of its time: all the arrays that a busy client holds."""
        self._ready: tuple[_Wanted, asyncio.Future[dict[str, int]]] | None = None
        """What the last server wanted of this client, and what it holds for that, as soon as its data are read."""
        self._outbox: Outbox[wire.ClientFrame] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._random = random.Random()

    async def run(self, give_up: float | None = None) -> str:
        """Serve until the run is over; give the server's last word.

        `give_up`: seconds without a line after which RefusedError is raised; None tries for ever.
        """
        pause, lost = _FIRST_PAUSE, time.monotonic()
        while True:
            began = time.monotonic()
            over, reason, good = await attend(self, self.target, self._identity, self._hello())
            if over:
                return reason
            now = time.monotonic()
            if good:
                lost = now
            if good and now - began > _STABLE:
                pause = _FIRST_PAUSE
            if give_up is not None and now - lost > give_up:
                raise RefusedError(
                    f"{self.name}: no line to {self.target} for {give_up:g} s; the last reason: {reason}"
                )
            wait = self._random.uniform(pause / 2, pause)
            told = {"client": self.name, "reason": reason}
            log.warning("%s: no line to %s: %s; again in %.1f s", self.name, self.target, reason, wait, extra=told)
            await asyncio.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _hello(self) -> wire.Hello:
        return wire.Hello(oldest=OLDEST, newest=NEWEST, name=self.name, release=RELEASE, held=list(self._held))

    async def prepare(self, welcome: wire.Welcome, outbox: "Outbox[wire.ClientFrame]") -> None:
        """Get ready for the server's run, tell what is held here, and offer what is finished."""
        wanted: _Wanted = (welcome.config, welcome.run, welcome.number, tuple(welcome.classes))
        if self._ready is None or self._ready[0] != wanted:
            loop = asyncio.get_running_loop()
            self._ready = wanted, loop.run_in_executor(self._pool, self._work.prepare, *wanted)
        counts = await asyncio.shield(self._ready[1])  # a line that drops meanwhile leaves it under way
        outbox.put(wire.ClientFrame(holding=wire.Holding(**counts)))
        self._outbox = outbox
        for task, reply in self._held.items():
            if reply is not None:
                self._offer(task, reply)

    def begin(self, intake: Intake, seconds: float) -> None:
        """Take on a task; let go of those that waited for their turn until their time was over."""
        now = time.monotonic()
        for task, (_, deadline) in list(self._waiting.items()):
            if deadline is not None and now > deadline:
                self.settle(task)
        if intake.task not in self._held:
            self._held[intake.task] = None
            self._waiting[intake.task] = intake, now + seconds if seconds else None
            doing = asyncio.ensure_future(self._do(intake.task))
            self._tasks.add(doing)
            doing.add_done_callback(self._tasks.discard)

    def settle(self, task: str) -> None:
        """Forget a task; one that is under way ends for nothing."""
        self._held.pop(task, None)
        self._waiting.pop(task, None)

    def reply(self, task: str) -> Message | None:
        """Give the finished reply to a task."""
        return self._held.get(task)

    async def _do(self, task: str) -> None:
        reply = await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, task)
        if task not in self._held:
            return
        if reply is None:
            self._held.pop(task)
            return
        self._held[task] = reply
        self._offer(task, reply)

    def _answer(self, task: str) -> Message | None:
        """Work on a task, unless it was settled or ran out of time while it waited for its turn."""
        intake, deadline = self._waiting.pop(task, (None, None))
        if intake is None or (deadline is not None and time.monotonic() > deadline):
            return None
        try:
            message = intake.message()
        except WireError as error:
            unread = Message(RecordDict(), FIRST_NODE, "train")  # the server knows by itself what is replied to
            return Message(Error(LOST, f"the client cannot read its task: {error}"), reply_to=unread)
        return self._work.answer(message)

    def _offer(self, task: str, reply: Message) -> None:
        if self._outbox is not None:
            size = arrays_size(reply.content) if reply.has_content() else 0
            self._outbox.put(wire.ClientFrame(offer=wire.Offer(task=task, size=size)))

    def line_ended(self) -> None:
        """Hear that there is no line any more."""
        self._outbox = None

    async def leave(self) -> None:
        """Say good-bye, if there is a line."""
        if self._outbox is not None:
            self._outbox.put(wire.ClientFrame(bye=wire.Bye(reason="the client stops")))
            await asyncio.sleep(0.2)
