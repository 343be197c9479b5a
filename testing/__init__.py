"""The public conformance suite: what every strategy must do, for `fedbox check` and for the tests of a plugin.

    import pytest
    from fedbox.testing import CHECKS, Check, Subject

    @pytest.fixture(scope="module")
    def subject():
        with Subject("median") as subject:
            yield subject

    @pytest.mark.parametrize("check", CHECKS, ids=str)
    def test_it_conforms(subject: Subject, check: Check) -> None:
        check(subject)

Nothing here needs pytest. Heavy imports happen on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checks import CHECKS, check_strategy
    from .subject import Subject
    from .suite import Check, CheckFailed, CheckSkipped, Outcome
    from .toys import TOYS, Toy, Trial

_LAZY = {
    "CHECKS": "checks",
    "Check": "suite",
    "CheckFailed": "suite",
    "CheckSkipped": "suite",
    "Outcome": "suite",
    "Subject": "subject",
    "TOYS": "toys",
    "Toy": "toys",
    "Trial": "toys",
    "check_strategy": "checks",
}

__all__ = [
    "CHECKS",
    "TOYS",
    "Check",
    "CheckFailed",
    "CheckSkipped",
    "Outcome",
    "Subject",
    "Toy",
    "Trial",
    "check_strategy",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
