"""The clients on line: who is there, what each of them works at, what has come back. Knows frames, but no gRPC.

Everything here runs on one thread, that of the event loop. A task is given to its client as soon as there is a line;
a line that drops is noticed, and the task waits for the client to come back, `grace` seconds at most. A finished reply
is first offered, then granted (`Uploads`), and none comes twice.
"""

import itertools
import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from ..strategies import wire_pb2 as wire
from ..strategies.base import LOST, Error, Message, WireError
from ..strategies.frames import TASK_NAME, body_of, cut
from ..strategies.grids import FIRST_NODE
from .enrolment import Enrolment, EnrolmentError
from .lines import Job, Line, Station, Terms
from .uploads import Uploads

log = logging.getLogger("fedbox.server")

_UNREAD = 1000  # small frames that may wait for a client to read them


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
        self.uploads = Uploads(terms)

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
                    station.jobs[task].outlive()
                    continue
                del station.jobs[task]
                if station.line is not None:
                    self.uploads.withdraw(station.line, task)
                    station.line.note(settled=wire.Note(task=task))

    def release(self) -> None:
        """Hear that a reply has been used: another one may come."""
        self.uploads.release()

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
        log.info("%s is on line (fedbox %s)", hello.name, hello.release[:40], extra={"client": hello.name})
        line.note(
            welcome=wire.Welcome(
                version=version,
                config=self._config,
                number=station.node - FIRST_NODE,
                heartbeat=terms.heartbeat,
                chunk=terms.piece,
                largest=terms.largest,
                compress=terms.compress,
                run=self._run,
                classes=self._classes,
            )
        )
        for task in set(hello.held) - station.jobs.keys():
            line.note(settled=wire.Note(task=task))
        for job in list(station.jobs.values()):
            if job.task in hello.held:
                continue
            if job.late:  # its time is over, and the client knows nothing of it
                del station.jobs[job.task]
            else:
                self._send(station, job)
        return line

    def leave(self, line: Line, reason: str = "") -> None:
        """Hear that a line has ended; its jobs wait for the client to come back."""
        station = self.stations[line.name]
        self.uploads.leave(line)
        if station.line is line:
            station.line, station.since = None, time.monotonic()
            self.counts["departures"] += 1
            log.info("%s is off line%s", line.name, f": {reason}" if reason else "", extra={"client": line.name})

    def hear(self, line: Line, frame: wire.ClientFrame) -> None:
        """Take a frame. Raises WireError when it has no place here: the line then ends."""
        if self.stations[line.name].line is not line:
            raise WireError("this line has ended")
        now = time.monotonic()
        line.credit = min(line.credit + (now - line.heard) * self.terms.frames, 2.0 * self.terms.frames)
        line.heard = now
        kind = frame.WhichOneof("frame")
        if kind == "chunk":
            self.uploads.take(line, frame.chunk)
            self._finish(line)
            return
        line.credit -= 1
        if line.credit < -self.terms.frames:
            raise WireError(f"more than {self.terms.frames} frames a second")
        if kind == "offer":
            self._take_offer(line, frame.offer)
        elif kind == "reply":
            self._begin(line, frame.reply)
        elif kind == "holding":
            held = frame.holding
            counts = {"labelled": held.labelled, "unlabelled": held.unlabelled, "test": held.test}
            self.stations[line.name].holding = {**counts, "classes": held.classes}
        elif kind == "bye":
            raise WireError(f"it said good-bye: {frame.bye.reason[:200]}")
        elif kind != "pong":
            raise WireError(f"a frame of kind {kind} has no place here")

    def _take_offer(self, line: Line, offer: wire.Offer) -> None:
        if len(offer.task.encode()) > TASK_NAME:
            raise WireError(f"a task's name has more than {TASK_NAME} bytes")
        station = self.stations[line.name]
        job = station.jobs.get(offer.task)
        reason = self._unwanted(job, offer.size) if job is not None else "unknown"
        if not reason:
            station.pass_over(offer.task, {*line.offers, line.granted})
            self.uploads.offer(line, offer.task)
            return
        self.counts["unwanted"] += 1
        self.uploads.withdraw(line, offer.task)
        line.note(settled=wire.Note(task=offer.task))
        if job is not None:
            self._lose(station, job, reason)

    def _unwanted(self, job: Job, size: int) -> str:
        """Say why the reply to a job is not taken; nothing where it is."""
        if size > self.terms.largest:
            return f"its reply has {size:,} bytes; at most {self.terms.largest:,} are taken (--max-message)"
        if job.begun >= self.terms.tries:
            return f"its reply began {job.begun} times, and the line broke off each time"
        return ""

    def _begin(self, line: Line, body: wire.Body) -> None:
        job = self.stations[line.name].jobs.get(body.task)
        if job is not None:
            job.begun += 1
        self.uploads.begin(line, body)
        self._finish(line)

    def _finish(self, line: Line) -> None:
        intake = self.uploads.completed(line)
        if intake is None:
            return
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
            if station.line is not None:
                self._watch(station.line, now)
            elif station.jobs and now - station.since > self.terms.grace:
                self._give_up(station, f"off line for {self.terms.grace:g} s")

    def _watch(self, line: Line, now: float) -> None:
        heartbeat = self.terms.heartbeat
        if now - line.heard > heartbeat:
            self._drop(line, f"nothing heard for {heartbeat:g} s")
        elif now > line.due:
            self._drop(line, f"it has read nothing for {self.terms.full:g} s")
        elif line.outbox.urgent > _UNREAD:
            self._drop(line, f"it leaves {line.outbox.urgent:,} frames unread")
        elif line.granted and now - line.moved > 2 * heartbeat:
            log.warning("%s sent nothing of its reply for %g s", line.name, 2 * heartbeat, extra={"client": line.name})
            self.uploads.take_back(line)
        elif now - line.pinged >= heartbeat / 3 and not line.outbox.urgent:
            # Whether or not it is heard: the other side listens for this while it sends much and hears nothing.
            line.pinged = now
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
        for job in list(station.jobs.values()):
            self._lose(station, job, reason)

    def _lose(self, station: Station, job: Job, reason: str) -> None:
        del station.jobs[job.task]
        if not job.late:  # else nobody waits for it any more
            job.answer(job, Message(Error(LOST, reason), reply_to=job.message), False)

    def _drop(self, line: Line, reason: str) -> None:
        line.end(reason)
        self.leave(line, reason)

    def _send(self, station: Station, job: Job) -> None:
        left = 0.0 if job.deadline is None else job.deadline - time.monotonic()
        if station.line is None or left < 0:
            return
        if job.sent >= self.terms.tries:
            self._lose(station, job, f"its task was sent {job.sent} times, and the line broke off each time")
            return
        try:
            body, bodies = body_of(job.task, job.message, left, self.terms.largest)
        except WireError as error:
            self._lose(station, job, f"its task cannot be sent: {error}")
            return
        job.sent += 1
        chunks = cut(bodies, self.terms.piece, self.terms.compress)
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
