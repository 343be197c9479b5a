"""Selectors: who takes part in a round. The contract, and how a selector is found by name and checked.

A selector is one value, `SelectorPlugin(settings, selector)`, registered under the entry-point group `fedbox.selectors`
or named `module:attribute` in `clients.selector`. What it knows reaches it through `see`, round by round: after a
resume it is shown the records of all earlier rounds again, so it needs no checkpoint, and a run that was killed chooses
as one that was not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from ..configs.faults import Fault, schema_faults
from .contract import Settings
from .registry import PluginError, broken, look_up, registered, unregistered

GROUP = "fedbox.selectors"
PROBE = "probe"
"""Phase of the message by which a client is asked for its loss."""

S = TypeVar("S", bound=Settings)


class Selector(Generic[S]):
    """Chooses the cohort of each round: a pure function of (seed, round, what was seen).

    `clients` are the names of all clients in their order, `rounds` the rounds of the run.
    """

    def __init__(self, settings: S, clients: Sequence[str], seed: int, rounds: int) -> None:
        self.settings, self.clients, self.seed, self.rounds = settings, clients, seed, rounds

    def asks(self, round_: int, size: int) -> Sequence[str]:
        """Give the clients that are asked for their loss before the choice, each with the model; here: nobody."""
        return ()

    def choose(self, round_: int, size: int, losses: Mapping[str, float]) -> Sequence[str]:
        """Give `size` different clients, in any order.

        `losses` has those of `asks` that answered: NaN for a client that holds no labelled sample, or whose loss is not
        finite.
        """
        raise NotImplementedError

    def see(
        self, round_: int, asked: Mapping[str, float | None], clients: Mapping[str, Mapping[str, float | None]]
    ) -> None:
        """Take what a round gave: the losses that were asked for, and each client's metrics as in the record.

        A client that trained has `examples` among them; one without was only measured. None is a number that is not
        finite, as in the record.
        """


@dataclass(frozen=True)
class SelectorPlugin:
    """A selector: its settings' schema and its class. `summary` is one line for listings."""

    settings: type[Settings]
    selector: type[Selector[Any]]
    summary: str = ""


def find_selector(name: str) -> SelectorPlugin:
    """Give the selector of a registered name, or of `module:attribute`. Raises PluginError."""
    value, told = look_up("selector", GROUP, name)
    if not isinstance(value, SelectorPlugin):
        raise PluginError(f"{told} is a {type(value).__name__}, not a fedbox.strategies.SelectorPlugin")
    broken(told, (("settings", value.settings, Settings), ("selector", value.selector, Selector)))
    return value


def make_selector(
    name: str, settings: Mapping[str, Any], clients: Sequence[str], seed: int, rounds: int
) -> Selector[Any]:
    """Give the named selector with checked settings."""
    plugin = find_selector(name)
    return plugin.selector(plugin.settings.model_validate(dict(settings)), clients, seed, rounds)


def cohort(
    name: str, selector: Selector[Any], round_: int, size: int, losses: Mapping[str, float], places: Mapping[str, int]
) -> list[str]:
    """Give the selector's choice in the clients' order. Raises PluginError for what is no cohort.

    `places` holds the place of every client in that order.
    """
    told = f"selector '{name}', round {round_}:"
    chosen = _known(selector.choose(round_, size, losses), f"{told} chose", selector, places)
    if len(set(chosen)) < len(chosen):
        twice = sorted({each for each in chosen if chosen.count(each) > 1}, key=places.__getitem__)
        raise PluginError(f"{told} chose {', '.join(twice[:5])} more than once")
    if len(chosen) != size:
        raise PluginError(f"{told} chose {len(chosen)} clients; wanted: {size} (clients.per_round)")
    return sorted(chosen, key=places.__getitem__)


def questioned(name: str, selector: Selector[Any], round_: int, size: int, places: Mapping[str, int]) -> list[str]:
    """Give the clients that the selector asks for their loss, each once. Raises PluginError for what are none."""
    given = selector.asks(round_, size)
    return [*dict.fromkeys(_known(given, f"selector '{name}', round {round_}: asked", selector, places))]


def _known(given: object, told: str, selector: Selector[Any], places: Mapping[str, int]) -> list[str]:
    """Give what are to be names of clients as a list. Raises PluginError."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise PluginError(f"{told} {given!r} ({type(given).__name__}); wanted: a list of names of clients")
    names = list(given)
    if unknown := [each for each in names if not isinstance(each, str) or each not in places]:
        first, last = selector.clients[0], selector.clients[-1]
        raise PluginError(f"{told} {', '.join(map(str, unknown[:5]))}; the clients are {first} to {last}")
    return names


def selector_faults(raw: Mapping[str, Any]) -> Iterable[Fault]:
    """Find the faults of `clients.selector` and its settings."""
    block = raw.get("clients") or {}
    if not isinstance(block, dict):
        return  # the schema says so
    name, settings = block.get("selector", "uniform"), block.get("selector_settings") or {}
    if not isinstance(name, str) or not isinstance(settings, dict):
        return
    points = registered(GROUP)
    if ":" not in name and name not in points:
        yield Fault("clients.selector", f"got '{name}', which is {unregistered('selector', name, points)}")
        return
    schema = find_selector(name).settings
    try:
        schema.model_validate(settings)
    except ValidationError as error:
        yield from schema_faults(error, schema, "clients.selector_settings")
