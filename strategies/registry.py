"""Find plugins by registered name (an entry-point group) or as `module:attribute`; and strategies among them."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from ..configs.faults import Fault, schema_faults, suggest
from ..configs.schema import named
from .contract import ClientHalf, Plugin, ServerHalf, Settings
from .halves import uncallable

GROUP = "fedbox.strategies"


class PluginError(ValueError):
    """A plugin cannot be found, cannot be imported or breaks the contract."""

    exit_code = 4


@dataclass(frozen=True)
class Listing:
    """A registered strategy, for listings: `problem` says why it cannot be used, when it cannot."""

    name: str
    summary: str
    origin: str
    settings: type[Settings] | None
    problem: str = ""


def registered(group: str = GROUP) -> dict[str, EntryPoint]:
    """Give the registered strategies, or what else a group holds, by name; nothing is imported."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def look_up(kind: str, group: str, name: str) -> tuple[Any, str]:
    """Give what a name of a group, or `module:attribute`, stands for, and what messages call it. Raises PluginError.

    `kind` is what messages say the plugin is: strategy, selector, callback.
    """
    points = [point for point in entry_points(group=group) if point.name == name]
    targets = sorted({point.value for point in points})
    if len(targets) > 1:
        raise PluginError(f"{kind} '{name}' is offered by {len(targets)} packages; name one: {', '.join(targets)}")
    if not targets and ":" not in name:
        raise PluginError(f"{kind} '{name}' is {unregistered(kind, name, registered(group))}")
    package = points[0].dist if points else None
    source = f" ({targets[0]}{f' of {package.name}' if package else ''})" if targets else ""
    told = f"{kind} '{name}'{source}"
    return imported(told, targets[0] if targets else name), told


def unregistered(kind: str, name: str, points: Iterable[str]) -> str:
    """Say that no plugin of the kind has this name, which ones there are, and how one of the user's own is named."""
    file = PurePath(name)
    if name.isidentifier() and Path(f"{name}.py").is_file():
        file = PurePath(f"{name}.py")
    example = f": write {file.stem}:plugin for {file.name}" if file.suffix == ".py" else ""
    return f"not registered; {suggest(name, points)}; a {kind} of your own is named module:attribute{example}"


def find(name: str) -> Plugin:
    """Give the strategy of a registered name, or of `module:attribute`. Raises PluginError."""
    return _checked(*look_up("strategy", GROUP, name))


def place_of(plugin: Plugin) -> str:
    """Give `module:attribute` of a Plugin: a configuration holds text, and workers import by it. Raises PluginError."""
    homes = [half.__module__ for half in (plugin.client, plugin.server, plugin.settings)]
    # The script that runs comes last: it may have imported the plugin, and workers cannot import the script.
    others = [name for name in sys.modules if name not in ("__main__", "__mp_main__")]
    for home in dict.fromkeys([*homes, *others, "__main__"]):
        for name, value in [*getattr(sys.modules.get(home), "__dict__", {}).items()]:
            if value is plugin:
                return f"{home}:{name}"
    raise PluginError(
        "the Plugin that was given as strategy is no variable of a module: put it into one, such as plugin in pull.py, "
        "or give module:attribute"
    )


def imported(told: str, target: str) -> Any:
    """Give the value that `module:attribute`, or `module`, names. Raises PluginError, which calls the plugin `told`."""
    module_name, _, attribute = target.partition(":")
    try:
        value: Any = importlib.import_module(module_name)
        for step in attribute.split(".") if attribute else ():
            value = getattr(value, step)
    except (Exception, SystemExit) as error:  # whatever a plugin's import raises is its fault, to be told by name
        lost = isinstance(error, ModuleNotFoundError) and error.name == module_name.partition(".")[0]
        where = "; it is looked for where fedbox was started, and among the installed packages" if lost else ""
        raise PluginError(f"{told} cannot be imported: {type(error).__name__}: {error}{where}") from error
    return value


def broken(told: str, parts: Iterable[tuple[str, Any, type]]) -> None:
    """Raise PluginError unless each part, (name, what was given, class wanted), is a subclass of its class."""
    breaches = [
        f"its {part} is {given!r}, not a subclass of {wanted.__name__}"
        for part, given, wanted in parts
        if not (inspect.isclass(given) and issubclass(given, wanted))
    ]
    if breaches:
        raise PluginError(f"{told} breaks the contract: {'; '.join(breaches)}")


def _checked(value: Any, told: str) -> Plugin:
    if not isinstance(value, Plugin):
        hint = "; name the value that Plugin(...) gave, usually plugin"
        raise PluginError(f"{told} is a {type(value).__name__}, not a fedbox.strategies.Plugin{hint}")
    broken(
        told,
        (
            ("settings", value.settings, Settings),
            ("client", value.client, ClientHalf),
            ("server", value.server, ServerHalf),
        ),
    )
    if problems := uncallable(value):
        raise PluginError(f"{told} breaks the contract: {'; '.join(problems)}")
    return value


def listings() -> list[Listing]:
    """Give every registered strategy with its summary and origin, the broken ones with their problem."""
    found = []
    for name, point in registered().items():
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
        try:
            plugin = find(name)
        except PluginError as error:
            found.append(Listing(name, "", origin, None, str(error)))
        else:
            summary = plugin.summary or (inspect.getdoc(plugin.client) or "").partition("\n")[0]
            found.append(Listing(name, summary, origin, plugin.settings))
    return found


def block_name(strategy: str) -> str:
    """Give the key of a strategy's block under `settings`: its name, or the attribute's module for module:attribute."""
    return strategy.partition(":")[0].rpartition(".")[2] if ":" in strategy else strategy


def settings_of(plugin: Plugin, strategy: str, blocks: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Give the checked settings of the chosen strategy."""
    return plugin.settings.model_validate(dict(blocks.get(block_name(strategy), {})))


def settings_faults(raw: Mapping[str, Any]) -> Iterable[Fault]:
    """Find the faults of `strategy` and of every block under `settings`, used or not."""
    strategy, blocks = raw.get("strategy", "fedavg"), raw.get("settings") or {}
    if not isinstance(strategy, str) or not isinstance(blocks, dict):
        return  # the schema says so
    points = registered()
    if ":" not in strategy and strategy not in points:
        yield Fault("strategy", f"got '{strategy}', which is {unregistered('strategy', strategy, points)}")
    else:
        yield from _model_faults(strategy, raw.get("model"))
        if block_name(strategy) not in blocks:  # its defaults may be at fault, or lack one
            yield from _block_faults(strategy, block_name(strategy), {})
    for key, block in blocks.items():
        target = strategy if key == block_name(strategy) else key if key in points else _of_module(str(key))
        if target is None:
            yield Fault(f"settings.{key}", f"is no strategy; {suggest(str(key), points)}")
        elif isinstance(block, dict):
            yield from _block_faults(str(target), str(key), block)


def leave_out_idle(raw: Mapping[str, Any]) -> None:
    """Take out blocks of strategies that are no packages and are not chosen, once they are found to be in order.

    So one configuration holds the settings of a `pull.py`, too, and a run of another strategy can be read where there
    is no such file.
    """
    strategy, blocks = raw.get("strategy", "fedavg"), raw.get("settings")
    if not isinstance(strategy, str) or not isinstance(blocks, dict):
        return
    for key in [key for key in blocks if key not in registered() and key != block_name(strategy)]:
        target = _of_module(str(key))
        if target is not None and isinstance(blocks[key], dict) and not [*_block_faults(target, key, blocks[key])]:
            del blocks[key]


def _of_module(name: str) -> str | None:
    """Give module:attribute of the strategy that a module of this name holds; None without a module or a strategy."""
    if not name.isidentifier() or importlib.util.find_spec(name) is None:
        return None
    found = plugins_in(imported(f"strategy '{name}'", name))
    return f"{name}:{found[0]}" if len(found) == 1 else None


def plugins_in(module: ModuleType) -> list[str]:
    """Name the strategies that a module holds; `plugin` alone where one of several has this name."""
    found = [name for name, value in vars(module).items() if isinstance(value, Plugin)]
    return ["plugin"] if "plugin" in found else found


def _model_faults(strategy: str, model: Any) -> Iterable[Fault]:
    """Find different networks under a strategy that averages weights."""
    block = named(model)
    many = [key for key in ("family", "by_client") if isinstance(block, dict) and block.get(key)]
    if many and not find(strategy).client.any_model:
        able = [one.name for one in listings() if not one.problem and find(one.name).client.any_model]
        yield Fault(
            f"model.{many[0]}",
            f"strategy {strategy} wants one network at all clients; strategies for different ones: {', '.join(able)}",
        )


def _block_faults(strategy: str, key: str, block: dict[str, Any]) -> Iterable[Fault]:
    if strategy not in registered() and ":" not in strategy:
        return
    schema = find(strategy).settings
    try:
        schema.model_validate(block)
    except ValidationError as error:
        yield from schema_faults(error, schema, f"settings.{key}")
    except Exception as error:  # a validator, or a factory of a default, of the plugin's own
        raise PluginError(
            f"strategy '{strategy}': its {schema.__name__} cannot be made: {type(error).__name__}: {error}"
        ) from error
