"""What a process that trains sets for itself: that freed memory is not handed back and zeroed again in each step."""

import os
import platform
import subprocess
import sys

import pytest

# Page faults while a megabyte, the size of a batch's activations, is taken and freed a hundred times.
PROGRAM = """
import resource, torch
from fedbox.models.process import keep_freed_memory, settle
if {settle}:
    settle()
    assert torch.get_num_threads() == 1
def use():
    kept = [torch.zeros(1 << 18) for _ in range(8)]
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, keep_freed_memory())
"""
MEGABYTES = 100 * 8


def faults(settle: bool, **environment: str) -> tuple[int, bool]:
    """Give the page faults of the program, and whether memory can be kept."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(settle=settle)],
        env={**own, **environment}, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    number, kept = done.stdout.split()
    return int(number), kept == "True"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep what is freed")
def test_freed_memory_is_kept_where_the_user_has_not_said_otherwise() -> None:
    number, kept = faults(settle=True)
    assert kept
    assert number < MEGABYTES  # not one page for each megabyte, where handing them out anew costs 256
    number, kept = faults(settle=True, MALLOC_MMAP_THRESHOLD_="131072")
    assert not kept
    assert number > MEGABYTES
