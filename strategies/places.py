"""Where an exception comes from: the line of the user's own code, not that of a library it passed through."""

import sys
import traceback
from pathlib import Path

_INSTALLED = ("fedbox", "flwr", "kornia", "mlflow", "numpy", "torch", "torchvision", "transformers", "wandb")
_LIBRARIES = {*_INSTALLED, *sys.stdlib_module_names}
"""Packages in which a plugin's mistake may come to light, but is not made; wandb puts itself in sys.exit's place."""


def origin_of(error: BaseException) -> tuple[str, bool]:
    """Give "FILE, line N" of the last of the user's own code that an exception passed, and whether it passed any."""
    steps = list(traceback.walk_tb(error.__traceback__))
    own = [step for step in steps if str(step[0].f_globals.get("__name__")).partition(".")[0] not in _LIBRARIES]
    frame, line = (own or steps)[-1]
    return f"{Path(frame.f_code.co_filename).name}, line {line}", bool(own)
