"""The clients on line: who is there, what each of them works at, what has come back. Knows frames, but no gRPC.

Everything here runs on one thread, that of the event loop. A task is given to its client as soon as there is a line;
a line that drops is noticed, and the task waits for the client to come back, `grace` seconds at most. A finished reply
is first offered, then granted: so few are on their way at a time that memory stays bounded, and none comes twice.
"""

import itertools
import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from ..strategies import wire_pb2 as wire
from ..strategies.base import LOST, Error, Message, WireError
from ..strategies.frames import Intake, body_of, cut
from ..strategies.grids import FIRST_NODE
from .enrolment import Enrolment, EnrolmentError
from .lines import Job, Line, Station, Terms

log = logging.getLogger("fedbox.server")


class Fleet:
    """All clients and their lines."""

    def __init__(self, enrolment: Enrolment, terms: Terms, config: str, run: str, classes: Sequence[str] = ()) -> None:
        self.enrolment, self.terms = enrolment, terms
        self._config, self._run, self._classes = config, run, classes
        self.stations = {name: Station(name, FIRST_NODE + i) for i, name in enumerate(enrolment.names)}
        self.counts: Counter[str] = Counter()
        self.refused: Counter[tuple[str, str]] = Counter()
        self.over = ""
        """The last word once the run has ended: whoever comes then is told it."""
        self.told: set[str] = set()
        self._free = terms.uploads
        self._offers: deque[tuple[Line, str]] = deque()

    # The run's side.

    def assign(self, name: str, job: Job) -> None:
        """Give a client a job; it is answered sooner or later unless it is withdrawn."""
        station = self.stations[name]
        station.jobs[job.task] = job
        if station.line is not None:
            self._send(station, job)

    def withdraw(self, tasks: Iterable[str], keep: bool = False) -> None:
        """Let go of jobs that are out of time; with `keep` a late reply is still taken."""
        wanted = set(tasks)
        for station in self.stations.values():
            for task in wanted & station.jobs.keys():
                if keep:
                    station.jobs[task].late = True
                    continue
                del station.jobs[task]
                if station.line is not None:
                    station.line.note(settled=wire.Note(task=task))

    def release(self) -> None:
        """Hear that a reply has been used: another one may come."""
        self._free += 1
        self._grant()

    def end(self, reason: str, over: bool) -> None:
        """Say good-bye to all; where the run is over, also to those who come later."""
        self.over = reason if over else ""
        for station in self.stations.values():
            if station.line is not None:
                station.line.end(reason, over)
                self.told.add(station.name)

    # The lines' side.

    def arrive(self, hello: wire.Hello, version: int) -> Line:
        """Let a client in. An older line of the same client ends."""
        station, terms = self.stations[hello.name], self.terms
        if station.line is not None:
            self._drop(station.line, "the client came back on another line")
        line = station.line = Line(hello.name)
        station.since = time.monotonic()
        self.counts["arrivals"] += 1
        if self.over:
            line.end(self.over, over=True)
            self.told.add(hello.name)
            return line
        log.info("%s is on line (fedbox %s)", hello.name, hello.release, extra={"client": hello.name})
        line.note(
            welcome=wire.Welcome(
                version=version,
                config=self._config,
                number=station.node - FIRST_NODE,
                heartbeat=terms.heartbeat,
                chunk=terms.chunk,
                largest=terms.largest,
                compress=terms.compress,
                run=self._run,
                classes=self._classes,
            )
        )
        for task in set(hello.held) - station.jobs.keys():
            line.note(settled=wire.Note(task=task))
        for job in station.jobs.values():
            if job.task not in hello.held:
                self._send(station, job)
        return line

    def leave(self, line: Line, reason: str = "") -> None:
        """Hear that a line has ended; its jobs wait for the client to come back."""
        station = self.stations[line.name]
        for _ in line.granted:
            self._free += 1
        line.granted.clear()
        self._offers = deque(offer for offer in self._offers if offer[0] is not line)
        self._grant()
        if station.line is line:
            station.line, station.since = None, time.monotonic()
            self.counts["departures"] += 1
            log.info("%s is off line%s", line.name, f": {reason}" if reason else "", extra={"client": line.name})

    def hear(self, line: Line, frame: wire.ClientFrame) -> None:
        """Take a frame. Raises WireError when it has no place here: the line then ends."""
        now = time.monotonic()
        line.credit = min(line.credit + (now - line.heard) * self.terms.frames, 2.0 * self.terms.frames)
        line.heard = now
        kind = frame.WhichOneof("frame")
        if kind == "chunk":
            self._take_chunk(line, frame.chunk)
            return
        line.credit -= 1
        if line.credit < -self.terms.frames:
            raise WireError(f"more than {self.terms.frames} frames a second")
        if kind == "offer":
            self._take_offer(line, frame.offer)
        elif kind == "reply":
            self._take_reply(line, frame.reply)
        elif kind == "holding":
            held = frame.holding
            counts = {"labelled": held.labelled, "unlabelled": held.unlabelled, "test": held.test}
            self.stations[line.name].holding = {**counts, "classes": held.classes}
        elif kind == "bye":
            raise WireError(f"it said good-bye: {frame.bye.reason[:200]}")
        elif kind != "pong":
            raise WireError(f"a frame of kind {kind} has no place here")

    def _take_offer(self, line: Line, offer: wire.Offer) -> None:
        if offer.task not in self.stations[line.name].jobs or offer.size > self.terms.largest:
            self.counts["unwanted"] += 1
            self._refuse_large(line, offer)
            line.note(settled=wire.Note(task=offer.task))
        elif offer.task not in line.granted and (line, offer.task) not in self._offers:
            self._offers.append((line, offer.task))
            self._grant()

    def _refuse_large(self, line: Line, offer: wire.Offer) -> None:
        job = self.stations[line.name].jobs.pop(offer.task, None)
        if job is not None:
            reason = f"its reply has {offer.size:,} bytes; at most {self.terms.largest:,} are taken"
            job.answer(job, Message(Error(LOST, reason), reply_to=job.message), False)

    def _grant(self) -> None:
        while self._free > 0 and self._offers:
            line, task = self._offers.popleft()
            if task in self.stations[line.name].jobs:
                self._free -= 1
                line.granted.add(task)
                line.note(grant=wire.Note(task=task))
            else:
                line.note(settled=wire.Note(task=task))

    def _take_reply(self, line: Line, body: wire.Body) -> None:
        if body.task not in line.granted:
            raise WireError(f"a reply to {body.task[:80]!r}, which was not granted")
        if line.intake is not None:
            raise WireError("a reply began before the last one was complete")
        line.intake = Intake(body, self.terms.largest, self.terms.chunk)
        self._finish_intake(line)

    def _take_chunk(self, line: Line, chunk: wire.Chunk) -> None:
        if line.intake is None:
            raise WireError("a chunk that belongs to no reply")
        line.intake.take(chunk)
        self._finish_intake(line)

    def _finish_intake(self, line: Line) -> None:
        if line.intake is None or not line.intake.complete:
            return
        intake, line.intake = line.intake, None
        line.granted.discard(intake.task)
        job = self.stations[line.name].jobs.pop(intake.task, None)
        line.note(settled=wire.Note(task=intake.task))
        if job is None:  # withdrawn while it was on its way
            self.counts["unwanted"] += 1
            self.release()
            return
        try:
            sent = intake.message()
            # Who replies to what is known here; the client's own word for it is not used.
            body = sent.error if sent.has_error() else sent.content
            reply = Message(body, reply_to=job.message)
        except WireError as error:
            reply = Message(Error(LOST, f"its reply cannot be read: {error}"), reply_to=job.message)
        self.counts["replies"] += 1
        job.answer(job, reply, True)

    def tick(self) -> None:
        """Look after the lines, about once in half a second."""
        now = time.monotonic()
        if self.over:
            return
        self._strike_out()
        for station in self.stations.values():
            line = station.line
            if line is None:
                if station.jobs and now - station.since > self.terms.grace:
                    self._give_up(station, f"off line for {self.terms.grace:g} s")
            elif now - line.heard > self.terms.heartbeat:
                self._drop(line, f"nothing heard for {self.terms.heartbeat:g} s")
            elif now - line.heard > self.terms.heartbeat / 3:
                line.note(ping=wire.Beat())

    def _strike_out(self) -> None:
        try:
            if not self.enrolment.refresh():
                return
        except EnrolmentError as error:
            log.error("the list of clients stays as it was: %s", error)
            return
        for station in self.stations.values():
            reason = self.enrolment.refusal(station.name, None)
            if reason is not None:
                if station.line is not None:
                    self._drop(station.line, reason)
                self._give_up(station, reason)

    def _give_up(self, station: Station, reason: str) -> None:
        jobs, station.jobs = station.jobs, {}
        for job in jobs.values():
            if not job.late:
                job.answer(job, Message(Error(LOST, reason), reply_to=job.message), False)

    def _drop(self, line: Line, reason: str) -> None:
        line.end(reason)
        self.leave(line, reason)

    def _send(self, station: Station, job: Job) -> None:
        left = 0.0 if job.deadline is None else job.deadline - time.monotonic()
        if station.line is None or left < 0:
            return
        try:
            body, bodies = body_of(job.task, job.message, left)
        except WireError as error:
            del station.jobs[job.task]
            job.answer(job, Message(Error(LOST, str(error)), reply_to=job.message), False)
            return
        chunks = cut(bodies, self.terms.chunk, self.terms.compress)
        frames = itertools.chain([wire.ServerFrame(task=body)], (wire.ServerFrame(chunk=chunk) for chunk in chunks))
        station.line.outbox.stream(frames)

    def snapshot(self) -> dict[str, object]:
        """Give what `fedbox status` shows of the clients."""
        now = time.monotonic()
        return {
            "clients": [
                {
                    "name": station.name,
                    "online": station.line is not None,
                    "seconds": round(now - station.since, 1),
                    "tasks": len(station.jobs),
                    **station.holding,
                }
                for station in self.stations.values()
            ],
            "counts": dict(self.counts),
            "refused": [{"reason": why, "client": who, "times": n} for (who, why), n in self.refused.items()],
        }
