"""What a check is: something every strategy must do, made on a subject, with an outcome that says what to do."""

import inspect
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from unittest import SkipTest

from .subject import Subject

_MEND = "mend it where the reason says; one worker runs everything in one process, which a debugger reaches"


class CheckFailed(AssertionError):  # noqa: N818  read in a test's output, where it stands for itself
    """A check did not pass: what happened, where, and what to do about it."""

    def __init__(self, what: str, where: str = "", do: str = "") -> None:
        self.what, self.where, self.do = what, where, do
        super().__init__("\n".join(filter(None, [what, where and f"where: {where}", do and f"what to do: {do}"])))


class CheckSkipped(SkipTest):
    """A check could not be made, since what it rests on failed. pytest and unittest count it as skipped."""


@dataclass(frozen=True)
class Check:
    """One thing that every strategy must do. Called with a subject it gives a remark, or raises CheckFailed."""

    name: str
    about: str
    run: Callable[[Subject], str]

    def __call__(self, subject: Subject) -> str:
        """Make the check. Whatever the strategy raises becomes a CheckFailed that says where."""
        needs_run = self.name not in ("settings", "hooks", "learns")
        if needs_run and subject.failed:
            raise CheckSkipped("the undisturbed run broke off: see 'learns'")
        try:
            return self.run(subject)
        except (CheckFailed, CheckSkipped):
            raise
        except Exception as error:
            what = f"the run broke off with {type(error).__name__}: {error}"
            raise CheckFailed(what, _place(error.__traceback__, subject), _MEND) from error

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Outcome:
    """What a check gave: `status` is passed, failed or skipped; `what` a remark, or what happened."""

    name: str
    about: str
    status: str
    what: str
    where: str
    do: str
    seconds: float


def outcomes(subject: Subject, checks: Sequence[Check]) -> Iterator[Outcome]:
    """Make the checks one by one and give each outcome as it is known."""
    for check in checks:
        began, where, do = time.perf_counter(), "", ""
        try:
            status, what = "passed", check(subject)
        except CheckFailed as failure:
            status, what, where, do = "failed", failure.what, failure.where, failure.do
        except CheckSkipped as skipped:
            status, what = "skipped", str(skipped)
        yield Outcome(check.name, check.about, status, what, where, do, time.perf_counter() - began)


def _place(trace: TracebackType | None, subject: Subject) -> str:
    """Give the last line of the strategy's own files that a traceback passed; nothing where it passed none."""
    frames = traceback.extract_tb(trace)
    plugin = subject.plugin
    own = {inspect.getfile(kind) for kind in (plugin.settings, plugin.client, plugin.server)}
    last = next((frame for frame in reversed(frames) if frame.filename in own), None)
    if last is None:
        return ""
    return f"{Path(last.filename).name}, line {last.lineno}, in {last.name}"
