"""Run a ClientApp on a message, whatever it does: an exception becomes an error reply that names it."""

import errno
from collections.abc import Callable

import torch

from ..strategies.base import DISK, OUT_OF_MEMORY, RAISED, Context, Error, Message, RecordDict
from ..strategies.grids import FIRST_NODE, RUN_ID, brief, sayable
from ..strategies.places import origin_of
from ..strategies.registry import PluginError
from .state import DiskError

App = Callable[[Message, Context], Message]
_SHORT = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")
"""What torch's RuntimeErrors say for lack of memory: its allocator on a CPU, CUDA itself, cuBLAS and cuDNN."""


def context_for(node_id: int, client: str, run_config: dict[str, bool | float | int | str]) -> Context:
    """Give the context of a node of one of our Grids, which is that of the client called `client`."""
    return Context(
        run_id=RUN_ID,
        node_id=node_id,
        node_config={"partition-id": node_id - FIRST_NODE, "client": client},
        state=RecordDict(),
        run_config=run_config,
    )


def drive(app: App, message: Message, context: Context) -> Message:
    """Give the app's reply, or an error reply with the exception's type, text and place."""
    try:
        return app(message, context)
    except (Exception, SystemExit) as error:  # a client that calls sys.exit must not take the run with it
        code = OUT_OF_MEMORY if lacks_memory(error) else DISK if isinstance(error, DiskError) else RAISED
        return Message(Error(code, reason_of(error)), reply_to=message)


def lacks_memory(error: BaseException) -> bool:
    """Say whether it was raised for lack of memory: not a client's fault, so it may be tried again beside fewer."""
    if isinstance(error, OSError):  # a file that cannot be mapped
        return error.errno == errno.ENOMEM
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in _text(error) for words in _SHORT)


def reason_of(error: BaseException) -> str:
    """Give an exception's type, text and place: the last line of the user's own code that it passed, if it did."""
    place, own = origin_of(error)
    # The place would be where that was found out; the text names the method.
    tail = "" if isinstance(error, PluginError) and not own else f" ({place})"
    return sayable(brief(f"{type(error).__name__}: {_text(error)}{tail}"))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as another:  # a class of the client's own that cannot even be told
        return f"its text cannot be had, for that raised {type(another).__name__}"
