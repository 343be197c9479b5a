"""How much memory this process has needed."""

import resource
import sys
from pathlib import Path


def peak_rss_mb() -> float:
    """Give this process's largest resident memory so far, in MB (10**6 bytes).

    Linux tells it for this program alone; what `getrusage` tells there includes the program that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
