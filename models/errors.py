"""The error that this room raises, and the hint it adds to an unknown name."""

import difflib
from collections.abc import Iterable


class ModelError(ValueError):
    """A model, one of its options or an array meant for it is not what is wanted; fedbox exits with 3."""

    exit_code = 3


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return the end of an error message: the nearest allowed name, if one is near, and the allowed names."""
    names = list(allowed)
    near = difflib.get_close_matches(str(given), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    more = f" and {len(names) - 30} more" if len(names) > 30 else ""
    return f"{hint} Allowed: {', '.join(names[:30]) or '(none)'}{more}."
