"""What every process that trains or measures a network sets for itself."""

import ctypes
import os

import torch

_KEPT_CHUNK = 32 << 20  # the most that glibc takes for its threshold
_KEPT = 512 << 20
_STEP = 16 << 20
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def settle() -> None:
    """Set this process up as all of them are: one torch thread, freed memory kept.

    One thread, because their number changes the last bits of sums. The other is speed alone: see `keep_freed_memory`.
    """
    torch.set_num_threads(1)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Let glibc keep up to 512 MB of freed memory for the next allocation; give whether it does.

    By default what is larger than a threshold goes back to the system at once. Activations of a batch are, so that in
    each step the kernel hands out, and zeroes, the same pages again: a third of a small ResNet's time. No bit of a
    result depends on it. What the user has set (MALLOC_*_, GLIBC_TUNABLES) and other C libraries are left alone.
    """
    own = any(name.startswith("MALLOC_") for name in os.environ)
    if own or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS; Windows has no library of the process
        return False
    given = ((_MMAP_THRESHOLD, _KEPT_CHUNK), (_TRIM_THRESHOLD, _KEPT), (_TOP_PAD, _STEP))
    done = [mallopt(name, value) == 1 for name, value in given]
    return all(done)
