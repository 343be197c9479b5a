"""Run a group of clients, one after the other or in one pass, and add up their updates where they were made."""

import time
from collections.abc import Sequence

from ..models.stacked import StackError
from ..strategies.exact import SumFullError
from ..strategies.partial import Partial
from .driver import lacks_memory, reason_of
from .state import DiskError
from .workspace import Visit, Workspace


def run_group(workspace: Workspace, visits: Sequence[Visit], expects: Sequence[str], stacked: bool) -> Partial:
    """Give the sum of the updates of one round's visits, to which the same was sent, and what became of each client.

    `expects` names those of the arrays sent that an update must look like. A client that fails, or whose update is
    refused, leaves the others as they are.
    """
    bound = workspace.federation.config.clients.max_change if expects else None
    partial = Partial({name: visits[0].received[name] for name in expects}, bound)
    start = time.monotonic()
    if stacked and _in_one_pass(workspace, visits, partial, start):
        return partial
    for visit in visits:
        began = time.monotonic() - start
        try:
            partial.add(visit.client, workspace.train(visit), began, time.monotonic() - start)
        except (Exception, SystemExit) as error:  # a client that calls sys.exit must not take the run with it
            if lacks_memory(error) or isinstance(error, (DiskError, SumFullError)):  # not to be laid to this client
                raise
            partial.fail(visit.client, "raised", reason_of(error), began, time.monotonic() - start)
    return partial


def _in_one_pass(workspace: Workspace, visits: Sequence[Visit], partial: Partial, start: float) -> bool:
    """Train all at once; False, and nothing done, where that cannot be."""
    try:
        updates = workspace.train_stacked(visits)
    except StackError:
        return False
    ended = time.monotonic() - start
    for visit, update in zip(visits, updates, strict=True):
        partial.add(visit.client, update, 0.0, ended)
    return True
