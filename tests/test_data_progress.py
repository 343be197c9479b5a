import os
import subprocess
import sys

import pytest

from fedbox.data.progress import progress, shown_by


def test_progress_counts_what_has_been_used_up() -> None:
    seen: list[tuple[str, int, int]] = []
    with shown_by(lambda *told: seen.append(told)):
        seen.extend((item, -1, -1) for item in progress("ab", "letters", 2))
    assert seen == [("letters", 0, 2), ("a", -1, -1), ("letters", 1, 2), ("b", -1, -1), ("letters", 2, 2)]
    assert list(progress("ab", "letters", 2)) == ["a", "b"]
    assert len(seen) == 5


CODE = """
import time
from fedbox.data.progress import progress
for _ in progress(range(3), "decoding things", 3):
    time.sleep(0.2)
"""


def test_a_terminal_has_a_bar_and_a_pipe_has_none() -> None:
    words = [sys.executable, "-c", CODE]
    piped = subprocess.run(words, capture_output=True, text=True, check=True)
    assert (piped.stdout, piped.stderr) == ("", "")
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(words, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
        assert process.wait() == 0
    os.close(ours)
    assert b"decoding things" in shown
    assert b"2/3" in shown
