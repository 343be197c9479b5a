"""How many cores there are to share out."""

import os


def cores() -> int:
    """Give the number of cores that this process may use; where the system does not tell (macOS), all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
