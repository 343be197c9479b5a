"""The options of a reader: its parameters after the root, checked before it runs."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .arrays import DataError

Reader = Callable[..., Any]


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return ' (did you mean ...?)' for a near miss, else an empty string."""
    near = difflib.get_close_matches(given, list(allowed), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def options_of(reader: Reader) -> dict[str, Any]:
    """Return the options that a reader declares, each with its default (None where it has none).

    They are all that can be given by name but the first parameter, which takes the root.
    """
    given = list(inspect.signature(reader).parameters.values())
    first = 0 if given and given[0].kind is inspect.Parameter.KEYWORD_ONLY else 1
    return {
        each.name: None if each.default is inspect.Parameter.empty else each.default
        for each in given[first:]
        if each.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    }


def unknown_names(reader: Reader, given: Iterable[str], common: Iterable[str]) -> list[str]:
    """Return those of the names that neither the reader nor `common` knows; none where the reader takes any."""
    kinds = {parameter.kind for parameter in inspect.signature(reader).parameters.values()}
    known = {*options_of(reader), *common}
    return [] if inspect.Parameter.VAR_KEYWORD in kinds else [name for name in given if name not in known]


def check_names(dataset: str, reader: Reader, given: Mapping[str, Any], common: Iterable[str]) -> None:
    """Raise DataError for an option that neither the reader nor `common` knows."""
    if unknown := unknown_names(reader, given, common):
        allowed = sorted({*options_of(reader), *common})
        hints = ", ".join(f"{name!r}{did_you_mean(name, allowed)}" for name in unknown)
        raise DataError(f"data set {dataset!r} has no option {hints}; allowed are {', '.join(allowed)}")


def call_checked(dataset: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call `function` with its arguments checked against its annotations.

    Raises DataError that names every option with a wrong type or range, the value given and what is allowed.
    """
    from pydantic import ConfigDict, ValidationError, validate_call

    checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(function)
    try:
        return checked(*args, **options)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(step) for step in fault['loc'])}: got {fault['input']!r}, {fault['msg'].lower()}"
            for fault in error.errors()
        )
        raise DataError(f"data set {dataset!r}: {faults}") from None
