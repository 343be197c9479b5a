"""`fedbox new`: a small package to begin a plugin with. It can be installed, tested and used as it is written."""

import difflib
import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

from ..server.catalog import GROUPS
from ..strategies.registry import registered
from . import templates


class ScaffoldError(ValueError):
    """A package cannot be begun under this name or in this folder; the text says what to do."""

    exit_code = 2


@dataclass(frozen=True)
class Kind:
    """A kind of plugin that can be begun: its group, its files (name, line about it, template), and the next steps."""

    group: str
    files: tuple[tuple[str, str, str], ...]
    steps: tuple[str, ...]


_COMMON = (("pyproject.toml", "its name, and the entry point by which fedbox finds it", templates.PROJECT),)
KINDS = {
    "strategy": Kind(
        "strategies",
        (
            ("$module.py", "the strategy: change this", templates.STRATEGY),
            ("$name.yaml", "a configuration to run it with", templates.CONFIG),
            ("test_$module.py", "its test: the conformance suite", templates.STRATEGY_TEST),
            *_COMMON,
            ("README.md", "what it is and how to use it", templates.STRATEGY_README),
        ),
        ("pip install -e $folder", "fedbox check $name", "fedbox run $folder/$name.yaml", "pytest $folder"),
    ),
    "callback": Kind(
        "callbacks",
        (
            ("$module.py", "the callback: change this", templates.CALLBACK),
            ("test_$module.py", "its test: a short run, stopped and resumed", templates.CALLBACK_TEST),
            *_COMMON,
            ("README.md", "what it is and how to use it", templates.CALLBACK_README),
        ),
        ("pip install -e $folder", "fedbox run quickstart rounds=3 --track $name", "pytest $folder"),
    ),
}


def write_package(kind: str, name: str, into: Path | None = None) -> tuple[Path, dict[str, str], list[str]]:
    """Write a package for a plugin of a kind (a key of KINDS) into a folder (None: fedbox-NAME, here).

    Gives the folder, its files with a line about each, and the commands that come next. Raises ScaffoldError for a name
    that is taken or cannot be one, and for a folder that holds something.
    """
    what = KINDS[kind]
    _check_name(kind, name)
    folder = into or Path(f"fedbox-{name}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ScaffoldError(f"{folder} exists and is not empty; give another folder with --into DIR")
    words = name.replace("_", "-").split("-")
    values = {
        "name": name,
        "module": f"fedbox_{name.replace('-', '_')}",
        "class_": "".join(word[:1].upper() + word[1:] for word in words),
        "package": f"fedbox-{name.replace('_', '-')}",
        "group": what.group,
        "kind": kind,
        "folder": str(folder),
    }
    written = {}
    folder.mkdir(parents=True, exist_ok=True)
    for file, about, template in what.files:
        path = folder / Template(file).substitute(values)
        path.write_text(Template(template).substitute(values), encoding="utf-8")
        written[path.name] = about
    return folder, written, [Template(step).substitute(values) for step in what.steps]


def _check_name(kind: str, name: str) -> None:
    group = GROUPS[KINDS[kind].group]
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or keyword.iskeyword(name):
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")
        hint = f", such as {near}" if near and not keyword.iskeyword(near) else ""
        raise ScaffoldError(
            f"got '{name}', which cannot be a {kind}'s name; allowed: small letters, digits, and - between them, a "
            f"letter first{hint}"
        )
    taken = {*registered(f"fedbox.{KINDS[kind].group}"), *group.built_in}
    same = [known for known in taken if known.replace("_", "-") == name.replace("_", "-")]
    if same:
        alike = difflib.get_close_matches(name, taken, n=3, cutoff=0.8)
        raise ScaffoldError(f"a {kind} '{same[0]}' is registered already; choose another (alike: {', '.join(alike)})")
