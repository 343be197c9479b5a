"""How far slow reading has come: a bar on a terminal, unless someone else wants to show it."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Show = Callable[[str, int, int], None]
"""Called as show(what, done, total) while `done` grows from 0 to `total`."""

_show: ContextVar[Show | None] = ContextVar("fedbox_progress", default=None)


@contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Hand all progress made inside to `show`; two bars would spoil each other's lines."""
    token = _show.set(show)
    try:
        yield
    finally:
        _show.reset(token)


def progress(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield the items and show how many of `total` have been used up."""
    show = _show.get()
    if show is not None:
        yield from _told(items, what, total, show)
    elif sys.stderr.isatty():
        with _bar() as bar:
            yield from _told(items, what, total, bar)
    else:
        yield from items


def _told(items: Iterable[T], what: str, total: int, show: Show) -> Iterator[T]:
    show(what, 0, total)
    for done, item in enumerate(items, 1):
        yield item
        show(what, done, total)


@contextmanager
def _bar() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
