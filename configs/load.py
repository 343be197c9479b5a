"""Read a configuration: a bundled name or a file, then `dotted.key=value` changes, then every check at once."""

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from .faults import ConfigError, Fault, schema_faults, suggest
from .schema import Config, named

Raw = dict[str, Any]
Check = Callable[[Raw], Iterable[Fault]]
Adapt = Callable[[Raw, Raw, Collection[str]], None]
"""Takes the raw values before and after the changes, and the keys changed; may mend what these left behind."""


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-3 as a number and refuses a key given twice.

    Of YAML 1.1 it leaves out what surprises: 010 is not eight, 1:30 not ninety, 2024-01-05 no date but a text.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # << : what it brings may be given anew
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, f"a key must be a text or a number, got {key!r}", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader`, and any other reader of YAML, reads as it was: texts that look like numbers in quotes."""


_OURS = {
    # YAML 1.1 wants a dot in a float: without this rule `lr: 1e-3` would be the text "1e-3".
    "float": r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$|^[-+]?(\d+\.\d*|\.\d+)$|^([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$",
    "int": r"^[-+]?(0|[1-9][0-9_]*)$|^[-+]?0x[0-9a-fA-F]+$|^[-+]?0b[01]+$",
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] not in ("timestamp", *_OURS)]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _rule in _OURS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_rule), list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_OURS["float"]), list("-+.0123456789"))


def bundled() -> dict[str, Path]:
    """Give the configurations that come with fedbox: name -> file."""
    folder = Path(str(files(__package__)))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_config(
    source: str | Path | Mapping[str, Any] | Config = "quickstart",
    overrides: Iterable[str] | Mapping[str, Any] = (),
    check: Check | None = None,
    adapt: Adapt | None = None,
) -> Config:
    """Give the checked configuration.

    `source` is a bundled name, the path of a YAML file, a mapping, or a Config. `overrides` are texts
    `dotted.key=value` (the value is read as YAML) or a mapping from dotted keys to values. Numbers and arrays of NumPy
    and torch are taken for Python's, and paths for texts. `check` finds the faults that the schema cannot
    know (those of the strategy's settings); `adapt` what a change left behind. Raises ConfigError with every fault.
    """
    label, raw = _read(source)
    base = deepcopy(raw)
    pairs, faults = _pairs(overrides)
    for key, value in pairs:
        faults += _set(raw, key, value)
    if adapt is not None:
        adapt(base, raw, [key for key, _ in pairs])
    config: Config | None = None
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        faults += schema_faults(error, Config)
    faults += _across(raw)
    told = {fault.path for fault in faults}
    faults += [fault for fault in _unwritable(raw) if fault.path not in told]
    if check is not None:
        faults += check(raw)
    if faults or config is None:
        raise ConfigError(label, dict.fromkeys(faults))
    return config


def to_yaml(config: Config) -> str:
    """Give the resolved configuration as YAML, every key with its value."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def completed(stored: Mapping[str, Any]) -> Raw:
    """Give a resolved configuration that some fedbox wrote as this one would have: later keys have their defaults.

    One that the schema does not take any more is given as it is.
    """
    try:
        return Config.model_validate(stored).model_dump(mode="json")
    except ValidationError:
        return dict(stored)


def _read(source: str | Path | Mapping[str, Any] | Config) -> tuple[str, Raw]:
    if isinstance(source, Config):
        return source.name, source.model_dump()
    if isinstance(source, Mapping):
        return "(mapping)", _plain(source)
    names = bundled()
    path = names.get(str(source), Path(source))
    if not path.is_file():
        hint = suggest(str(source), names)
        raise ConfigError(str(source), [Fault(str(source), f"no such file, nor a bundled configuration; {hint}")])
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(str(source), [Fault(path.name, f"is not valid YAML: {error}")]) from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(str(source), [Fault(path.name, f"must hold keys, but holds {type(raw).__name__}")])
    return str(source), raw


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # NumPy's and torch's, neither of which is imported here
        return value.tolist()
    return str(value) if isinstance(value, Path) else value


def _unwritable(value: Any, path: str = "") -> Iterable[Fault]:
    """Find what no YAML file could hold, such as a class given from Python: the schema takes options as they are."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in parts:
        yield from _unwritable(item, f"{path}.{key}" if path else str(key))
    if not isinstance(value, dict | list | str | int | float | None):
        yield Fault(path, f"got {value!r}; allowed: a number, a text, true, false, null, or lists and blocks of these")


def _pairs(overrides: Iterable[str] | Mapping[str, Any]) -> tuple[list[tuple[str, Any]], list[Fault]]:
    """Give the keys to be changed with their values, and a fault for each override that cannot be read."""
    if isinstance(overrides, Mapping):
        return [(str(key), _plain(value)) for key, value in overrides.items()], []
    pairs: list[tuple[str, Any]] = []
    faults: list[Fault] = []
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            faults.append(Fault(text, "an override is written dotted.key=value, for example train.lr=0.05"))
            continue
        try:
            pairs.append((key.strip(), yaml.load(value, _Loader)))
        except (yaml.YAMLError, ValueError):
            faults.append(Fault(key, f"got {value!r}, which is not a YAML value; quote it"))
    return pairs, faults


def _set(raw: Raw, dotted: str, value: Any) -> Iterable[Fault]:
    *parents, last = dotted.split(".")
    here = raw
    for step in parents:
        below = here.setdefault(step, {})
        if step == "model":  # `model: cnn` is short for `model: {name: cnn}`, and so is a list for a family
            below = here[step] = named(below)
        if not isinstance(below, dict):
            yield Fault(dotted, f"'{step}' holds {below!r}, not a block of keys")
            return
        here = below
    here[last] = value


def _across(raw: Raw) -> Iterable[Fault]:
    """Find the faults that lie between keys. Reads the raw values, so that they show beside the others."""

    def get(dotted: str, default: Any = None) -> Any:
        here: Any = raw
        for step in dotted.split("."):
            here = here.get(step) if isinstance(here, dict) else None
        return default if here is None else here

    population = get("data.partition.clients", 20)
    per_round, wanted = get("clients.per_round"), get("clients.min_success")
    natural = get("data.partition.kind") == "natural"
    if _is_count(population) and not natural:
        if _is_count(per_round) and per_round > population:
            yield Fault("clients.per_round", f"got {per_round}; allowed: at most data.partition.clients={population}")
        cohort = per_round if _is_count(per_round) else population
        if _is_count(wanted) and wanted > cohort:
            yield Fault("clients.min_success", f"got {wanted}; allowed: at most the {cohort} clients of a round")
    if natural and not get("data.partition.key"):
        yield Fault("data.partition.key", "kind natural needs the attribute that names the client, such as domain")
    if get("data.server.value") is not None and not get("data.partition.key"):
        yield Fault(
            "data.partition.key", "data.server.value needs the attribute that it is a value of, such as weather"
        )
    if get("evaluate.split") == "validation" and not get("data.validation_share"):
        yield Fault("data.validation_share", "evaluate.split=validation needs a share above 0, such as 0.1")
    domain = get("evaluate.client_split") == "domain"
    if domain and not natural:
        yield Fault("evaluate.client_split", "domain needs data.partition.kind=natural, which gives clients a domain")
    if get("evaluate.clients", "none") in ("cohort", "all") and not (domain or get("data.test_share")):
        yield Fault("data.test_share", "evaluate.clients needs clients with a test set of their own, such as 0.2")
    yield from _exclusive(get)
    yield from _ray_gpus(get)
    yield from _difficulty(get)


def _difficulty(get: Callable[..., Any]) -> Iterable[Fault]:
    """Find difficulties that nothing measures."""
    order = get("clients.order.kind", "none")
    if order in ("curr", "anti") and get("clients.order.score") == "E":
        if get("clients.order.expert") is None:
            yield Fault(
                "clients.order.expert",
                "score E needs the model.safetensors of a model trained on everybody's data, such as that of a run "
                "with strategy=centralized",
            )
        if get("model.family") or get("model.by_client"):
            yield Fault("clients.order.score", "E fits one network; leave out model.family and model.by_client")
    if get("data.partition.kind") == "inc" and not (get("data.partition.expert") or get("data.partition.key")):
        yield Fault(
            "data.partition.expert",
            "kind inc needs the model.safetensors whose losses say what is hard, or data.partition.key, a numeric "
            "attribute",
        )


def _ray_gpus(get: Callable[..., Any]) -> Iterable[Fault]:
    """Find GPUs that a Ray actor would not see."""
    device = str(get("engine.device", "cpu"))
    if get("engine.kind") != "ray" or not device.startswith("cuda"):
        return
    if device != "cuda":
        yield Fault("engine.device", f"got {device}; Ray gives each actor a GPU, which it knows as cuda: take that")
    if get("engine.ray.gpus") == 0:
        yield Fault("engine.ray.gpus", "got 0; an actor needs a GPU for engine.device=cuda, or a share such as 0.25")


def _exclusive(get: Callable[..., Any]) -> Iterable[Fault]:
    """Find keys of which only one may be given."""
    if get("model.weights") is not None and (get("model.family") or get("model.by_client")):
        yield Fault("model.weights", "fits one network; leave out model.family and model.by_client")
    # A resolved configuration holds the default share beside a count.
    if get("data.labels.count") is not None and get("data.labels.share", 1.0) != 1.0:
        yield Fault("data.labels", "give share or count, not both")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
