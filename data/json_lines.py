"""On which line of a JSON file a record stands: the parser forgets it, and a message should name it.

Readers tell a record by its path, `FILE: annotations[3]`. Only when something is wrong is the file looked through once
more, so that reading well-formed files costs nothing.
"""

import json
import re
from collections.abc import Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_STEP = r"\w+\[\d+\]"
_PATH = re.compile(rf"{_STEP}(?:: {_STEP})*")


def with_lines(message: str, name: str, text: str) -> str:
    """Return the message with ", line N" behind every path of a record of the file `name`, whose content is `text`.

    A file of one line is left alone: its records are told apart by their paths.
    """
    if "\n" not in text.strip():
        return message

    def told(match: re.Match[str]) -> str:
        steps = [(key, int(row)) for key, row in re.findall(r"(\w+)\[(\d+)\]", match[2])]
        line = line_of(text, steps)
        return match[0] if line is None else f"{match[0]}, line {line}"

    return re.sub(rf"({re.escape(name)}: )({_PATH.pattern})", told, message)


def line_of(text: str, steps: list[tuple[str, int]]) -> int | None:
    """Return the line (from 1) on which the record begins that steps (key, row) lead to; None if they lead nowhere.

    A step looks for the list under `key` of an object; in a document that is a list itself, the first key is ignored.
    """
    place = _after(text, 0)
    try:
        for key, row in steps:
            if text[place] == "{":
                place = next(at for name, at in _members(text, place) if name == key)
            place = next(at for number, at in enumerate(_elements(text, place)) if number == row)
    except (StopIteration, ValueError, IndexError):
        return None
    return text.count("\n", 0, place) + 1


def _after(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return place if found is None else found.end()


def _members(text: str, place: int) -> Iterator[tuple[str, int]]:
    """Yield the keys of the object at `place`, each with the place of its value."""
    place = _after(text, place + 1)
    while text[place] == '"':
        name, end = scanstring(text, place + 1, True)
        place = _after(text, _after(text, end) + 1)
        yield name, place
        place = _after(text, _DECODER.raw_decode(text, place)[1])
        place = _after(text, place + 1) if text[place] == "," else place


def _elements(text: str, place: int) -> Iterator[int]:
    """Yield the places of the elements of the list at `place`."""
    if text[place] != "[":
        return
    place = _after(text, place + 1)
    while text[place] != "]":
        yield place
        place = _after(text, _DECODER.raw_decode(text, place)[1])
        place = _after(text, place + 1) if text[place] == "," else place
