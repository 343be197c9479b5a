"""What is misspelt on the command line: `--rounds 5` is told as `rounds=5`, whichever command it was given to."""

from difflib import SequenceMatcher
from typing import Any

import click
from typer.core import TyperCommand, TyperGroup

_SLIP = 0.85  # likeness from which a name counts as an option misspelt
_NEAR = 0.7  # and from which it is worth asking whether it is one: --foo is not --out

# What other platforms call a command.
_ELSEWHERE = {
    **dict.fromkeys(("client", "supernode", "start-client"), "join"),
    **dict.fromkeys(("server", "superlink", "start-server"), "serve"),
    **dict.fromkeys(("simulate", "simulator", "simulation", "train", "start"), "run"),
    **dict.fromkeys(("sweep", "tune"), "compare"),
    **dict.fromkeys(("test", "eval"), "evaluate"),
}


class Commands(TyperGroup):
    """The commands. One that is misspelt is guessed at once: typer does so, and click does from 8.4 on."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that a command line begins with."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if args and args[0] in _ELSEWHERE:
                told = f"No such command '{args[0]}'. Did you mean '{_ELSEWHERE[args[0]]}'?"
                raise click.UsageError(told, ctx=ctx) from None
            if getattr(error, "possibilities", None) and "Did you mean" in error.message:
                raise click.UsageError(error.message, ctx=ctx) from None
            raise


class SettingsCommand(TyperCommand):
    """A command that, where it takes KEY=VALUE, tells a key that was given as an option how it is written."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the words of the command line."""
        words = list(args)  # those that were taken are gone afterwards
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            near = [name for name in error.possibilities or [] if _alike(error.option_name, name) >= _NEAR]
            slip = any(_alike(error.option_name, name) >= _SLIP for name in near)
            takes_settings = any(parameter.name == "overrides" for parameter in self.params)
            told = _told(error.option_name, words) if takes_settings and not slip else ""
            if told:
                raise click.UsageError(f"No such option '{error.option_name}'. {told}", ctx=ctx) from None
            raise click.NoSuchOption(error.option_name, possibilities=near, ctx=ctx) from None


def _alike(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


def _told(option: str, words: list[str]) -> str:
    """Say how the settings that an option's name stands for are given; nothing where it stands for none."""
    from ..configs.faults import settings_called, settings_like
    from ..configs.schema import Config

    name = option.lstrip("-").replace("-", "_")
    paths = settings_called(Config, name) or settings_like(Config, name)
    value = _value(option, words)
    return f"A setting is given as {' or '.join(f'{path}={value}' for path in paths)}." if paths else ""


def _value(option: str, words: list[str]) -> Any:
    for place, word in enumerate(words):
        name, sign, value = word.partition("=")
        if name == option:
            after = words[place + 1 : place + 2]
            return value if sign else next((word for word in after if not word.startswith("--")), "VALUE")
    return "VALUE"
