"""Faults of a configuration: each with its path, the value given and the values allowed."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ValidationError


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: the dotted path of the key, and what to do about it."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class ConfigError(ValueError):
    """A configuration has faults; `faults` holds all of them. The command line exits with 2."""

    exit_code = 2

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[str, tuple[Fault, ...]]]:
        """Say how it is made anew in another process."""
        return ConfigError, (self.source, self.faults)

    def __init__(self, source: str, faults: Iterable[Fault]) -> None:
        self.source = source
        self.faults = tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        lines = "\n".join(f"  {fault}" for fault in self.faults)
        super().__init__(f"configuration {source} has {count}:\n{lines}")


def suggest(given: str, allowed: Iterable[str]) -> str:
    """Say which allowed name was probably meant, and list them all: "did you mean 'alpha'? allowed: ..."."""
    names = sorted(allowed)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    listing = f"allowed: {', '.join(names)}" if names else "nothing is allowed here"
    return f"did you mean '{close[0]}'? {listing}" if close else listing


def some(names: Collection[str], most: int = 6) -> str:
    """Name so many at most, and how many there are besides: "a, b and 3 more"."""
    return ", ".join([*names][:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "dict_type": "a block of keys",
    "model_type": "a block of keys",
    "model_attributes_type": "a block of keys",
    "list_type": "a list",
}


def schema_faults(error: ValidationError, model: type[BaseModel], prefix: str = "") -> list[Fault]:
    """Turn pydantic's errors into faults; the branches of a union that failed become one fault."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for item in error.errors(include_url=False):
        path = _path_in(model, item["loc"])
        grouped.setdefault(".".join([prefix, *path] if prefix else path), []).append(dict(item))
    return [Fault(path or "(top)", _explain(items, model)) for path, items in grouped.items()]


def _path_in(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Drop what pydantic adds to a path for the branch of a union (`int`, `constrained-float`, ...)."""
    path: list[str] = []
    here: type[BaseModel] | None = model
    for step in map(str, loc):
        if (
            here is None
            and path
            and (step in {"int", "float", "str"} or "[" in step or "-float" in step or "-int" in step)
        ):
            continue
        path.append(step)
        here = _block_at(here, step)
    return path


def _block_at(model: type[BaseModel] | None, key: str) -> type[BaseModel] | None:
    if model is None or key not in model.model_fields:
        return None
    annotation = model.model_fields[key].annotation
    for option in (annotation, *get_args(annotation)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def _explain(items: list[Mapping[str, Any]], model: type[BaseModel]) -> str:
    first = items[0]
    if first["type"] == "extra_forbidden":
        block: type[BaseModel] | None = model
        for step in first["loc"][:-1]:
            block = _block_at(block, str(step)) or block
        key = str(first["loc"][-1])
        deeper = _places(model, key) if len(first["loc"]) == 1 else []
        if deeper:
            return f"unknown key; did you mean {' or '.join(deeper)}?"
        return f"unknown key; {suggest(key, (block or model).model_fields)}"
    wanted = " or ".join(dict.fromkeys(_wanted(item) for item in items))
    return f"got {first['input']!r}; allowed: {wanted}"


def _places(model: type[BaseModel], key: str) -> list[str]:
    """Give the dotted paths of a key in the blocks below."""
    found = []
    for name in model.model_fields:
        block = _block_at(model, name)
        if block is not None:
            found += [f"{name}.{key}"] if key in block.model_fields else []
            found += [f"{name}.{path}" for path in _places(block, key)]
    return found


def settings_called(model: type[BaseModel], name: str) -> list[str]:
    """Give the dotted paths of the settings that a name, dotted or not, stands for; a block of keys is none itself."""
    whole = [name] if _is_setting(model, name.split(".")) else []
    return whole or ([] if "." in name else _places(model, name))


def settings_like(model: type[BaseModel], name: str) -> list[str]:
    """Give the dotted paths of the settings whose name a misspelt one is closest to, if it is close."""
    near = difflib.get_close_matches(name, sorted(_names(model)), n=1, cutoff=0.8)
    return settings_called(model, near[0]) if near else []


def _names(model: type[BaseModel]) -> set[str]:
    """Give the names of all settings, of every block."""
    inner = {key: _block_at(model, key) for key in model.model_fields}
    return {*inner}.union(*(_names(block) for block in inner.values() if block is not None))


def _is_setting(model: type[BaseModel], path: list[str]) -> bool:
    key, *rest = path
    field, block = model.model_fields.get(key), _block_at(model, key)
    if field is None:
        return False
    if rest:
        return _is_setting(block, rest) if block else dict in (field.annotation, get_origin(field.annotation))
    short = any(isinstance(item, BeforeValidator) for item in field.metadata)  # `model: cnn` is a block in one word
    return block is None or short


def _wanted(item: Mapping[str, Any]) -> str:
    kind, context = str(item["type"]), item.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "")
    if kind in _TYPES:
        return _TYPES[kind]
    for name, words in _BOUNDS.items():
        if name in context:
            return f"a number {words} {context[name]}"
    if kind == "missing":
        return "a value (the key is required)"
    if kind == "string_pattern_mismatch":
        return f"a text that matches {context['pattern']}"
    return str(item["msg"])
