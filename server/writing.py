"""What is written to disk while the next round already runs: one round's record and checkpoint at a time."""

from collections.abc import Callable
from threading import Thread


class Writer:
    """Runs one job at a time in a thread of its own; the next one waits until it is over.

    So a run that is killed has lost at most the round whose job was under way, besides the one that was being run.
    """

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._problem: BaseException | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Start a job when the last one is over. Raises what that one raised; then this one is not started."""
        self.wait()
        thread = Thread(target=self._run, args=(job,), name="fedbox-writer")
        try:
            thread.start()
        except RuntimeError:  # no more threads, or no memory for one: what it would have done is done here
            self._run(job)
        else:
            self._thread = thread

    def wait(self) -> None:
        """Wait until nothing is under way. Raises, once, what the job raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as problem:
            self._problem = problem
