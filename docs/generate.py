"""Write docs/configuration.md and docs/cli.md.

    python docs/generate.py

cli.md is what the commands say of themselves. The tables of configuration.md come from the schema, its prose from
configuration.md.in.

A line `{{NAME}}` of the template becomes a table: `{{data.partition}}` that of a block of the schema, `{{top}}` that of
the top-level keys, `{{settings}}` the built-in strategies' settings, `{{models}}` the options of the built-in models,
`{{selectors}}` the built-in selectors' settings.
"""

import inspect
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import typer
from pydantic import BaseModel

import fedbox.__main__ as app_module
from fedbox.__main__ import app
from fedbox.configs import Config
from fedbox.models import MODELS
from fedbox.strategies.registry import find
from fedbox.strategies.selection import find_selector

DOCS = Path(__file__).resolve().parent
_WORDS = {"integer": "whole number", "number": "number", "string": "text", "null": "null", "boolean": "true or false"}
_WORDS |= {"array": "list", "object": "block"}


# What the schema leaves unsaid because the name says it; a description in the schema takes precedence.
def pages() -> dict[Path, str]:
    """Give the generated pages: path and text."""
    template = (DOCS / "configuration.md.in").read_text(encoding="utf-8")
    tables = {f"{{{{{path or 'top'}}}}}": table_of(path, model) for path, model in blocks("", Config)}
    tables |= {"{{settings}}": strategies_table(), "{{models}}": models_table(), "{{selectors}}": selectors_table()}
    lines = template.splitlines()
    missing = [name for name in tables if name not in lines]
    unknown = [line for line in lines if re.fullmatch(r"\{\{.*\}\}", line) and line not in tables]
    if missing or unknown:
        raise ValueError(f"configuration.md.in lacks the lines {missing} and has the unknown lines {unknown}")
    text = "\n".join(tables.get(line, line) for line in lines)
    return {DOCS / "configuration.md": text + "\n", DOCS / "cli.md": cli_page()}


def blocks(path: str, model: type[BaseModel]) -> Iterable[tuple[str, type[BaseModel]]]:
    """Give every block of the schema with its dotted path, the top level (path "") first."""
    yield path, model
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from blocks(f"{path}.{name}".lstrip("."), field.annotation)


def table_of(path: str, model: type[BaseModel]) -> str:
    """Give the table of one block: key, type, default, meaning."""
    schema = model.model_json_schema()
    rows = []
    for name, field in model.model_fields.items():
        key = f"{path}.{name}".lstrip(".")
        spec = schema["properties"][name]
        if "$ref" in spec:  # a block of its own, with a table of its own
            title = (inspect.getdoc(field.annotation) or "").partition(" (`")[0].rstrip(".")
            rows.append((f"[`{key}`](#{key.replace('.', '')})", "block", "", title[0].lower() + title[1:]))
            continue
        meaning = field.description
        if not meaning:
            raise ValueError(f"{key} has no description in the schema")
        default = json.dumps(field.get_default(call_default_factory=True)).strip('"')
        rows.append((f"`{key}`", type_of(spec), f"`{default}`", meaning))
    return table(("key", "type", "default", "meaning"), rows)


def type_of(spec: Mapping[str, Any]) -> str:
    """Say in words what a JSON schema allows: "whole number, at least 1, or null"."""
    if "anyOf" in spec:
        return ", or ".join(type_of(option) for option in spec["anyOf"])
    if "enum" in spec or "const" in spec:
        return ", ".join(f"`{value}`" for value in spec.get("enum", [spec.get("const")]))
    bounds = [
        f"{words} {_number(spec[name])}"
        for name, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if name in spec
    ]
    return ", ".join([_WORDS[spec["type"]], *bounds])


def _number(value: float) -> str:
    power = int(value).bit_length() - 1
    return f"2^{power}" if power > 30 and value == 2**power else f"{value:g}"


def strategies_table() -> str:
    """Give the settings of fedbox's own strategies; those of other packages are not part of these pages."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    rows = []
    for name, target in project["project"]["entry-points"]["fedbox.strategies"].items():
        plugin = find(target)
        fields = plugin.settings.model_fields
        properties = plugin.settings.model_json_schema().get("properties", {})
        rows += [
            (f"`settings.{name}.{key}`", type_of(properties[key]), f"`{field.default}`", field.description or "")
            for key, field in fields.items()
        ]
        if not fields:
            rows.append((f"`settings.{name}`", "block", "`{}`", "no settings"))
    return table(("key", "type", "default", "meaning"), rows)


def selectors_table() -> str:
    """Give the settings of fedbox's own selectors."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    rows = []
    for name, target in project["project"]["entry-points"]["fedbox.selectors"].items():
        plugin = find_selector(target)
        properties = plugin.settings.model_json_schema().get("properties", {})
        rows.append((f"`{name}`", "", "", plugin.summary))
        rows += [
            (f"`{name}`: `{key}`", type_of(properties[key]), f"`{field.default}`", field.description or "")
            for key, field in plugin.settings.model_fields.items()
        ]
    return table(("selector: setting", "type", "default", "meaning"), rows)


def models_table() -> str:
    """Give the built-in models with their options."""
    rows = []
    for name, build in MODELS.items():
        options = list(inspect.signature(build).parameters.values())[2:]  # behind shape and classes
        shown = ", ".join(f"`{option.name}` ({option.default})" for option in options)
        rows.append((f"`{name}`", shown, (inspect.getdoc(build) or "").partition("\n")[0].rstrip(".")))
    return table(("model", "options (defaults)", "what it is"), rows)


def cli_page() -> str:
    """Give the reference of the command line: every command with its explanation, arguments and options."""
    group = typer.main.get_command(app)
    text = "# Command line\n\nWritten from what `fedbox COMMAND --help` says.\n"
    for name, command in getattr(group, "commands", {}).items():
        prose = _plain(inspect.cleandoc(command.help or ""))
        usage = " ".join(["fedbox", name, *command.collect_usage_pieces(click.Context(command))])
        text += f"\n## fedbox {name}\n\n    {usage}\n\n{prose}\n\n"
        rows = [_parameter(one) for one in command.params if not getattr(one, "hidden", False)]
        text += table(("argument or option", "default", "meaning"), rows) + "\n" if rows else ""
    codes = (inspect.getdoc(sys.modules[app_module.__name__]) or "").partition("Exit codes: ")[2]
    return text + "\n## Exit codes\n\n" + " ".join(codes.partition(". ")[0].split()) + ".\n"


def _parameter(one: click.Parameter) -> tuple[str, str, str]:
    """Give a row: how the parameter is written, its default, its meaning."""
    given = one.to_info_dict()
    names = ", ".join(f"`{option}`" for option in [*one.opts, *one.secondary_opts])
    if given["param_type_name"] == "argument":
        names = f"`{one.human_readable_name}`"
    shown = getattr(one, "show_default", None)
    default = shown if isinstance(shown, str) else one.default
    told = "" if default in (None, False, ()) or callable(default) else f"`{default}`"
    return names, told, _plain(getattr(one, "help", None) or "")


def _plain(text: str) -> str:
    """Give help without rich's markup: commands of [dim] lines become code."""
    text = re.sub(r"^\[dim\](.*?)\[/\]$", r"    \1", text, flags=re.MULTILINE)
    return re.sub(r"\[bold\](.*?)\[/(?:bold)?\]", r"`\1`", text).replace("\\[", "[").replace("\f", "")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Give a Markdown table."""
    lines = [tuple(head), *map(tuple, rows)]
    lines.insert(1, ("---",) * len(lines[0]))
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
        print(f"wrote {page.relative_to(DOCS.parent)}")
