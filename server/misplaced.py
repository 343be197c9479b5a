"""A setting that was written as an option: `--rounds 5` is told as `rounds=5`, whichever command it was given to."""

from difflib import SequenceMatcher
from typing import Any

import click
from typer.core import TyperCommand

_SLIP = 0.85  # likeness from which a name counts as an option misspelt


class SettingsCommand(TyperCommand):
    """A command that, where it takes KEY=VALUE, tells a key that was given as an option how it is written."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the words of the command line."""
        words = list(args)  # those that were taken are gone afterwards
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if any(parameter.name == "overrides" for parameter in self.params) and not _slip(error):
                told = _told(error.option_name, words)
                if told:
                    raise click.UsageError(f"No such option '{error.option_name}'. {told}", ctx=ctx) from None
            raise


def _slip(error: click.NoSuchOption) -> bool:
    near = (error.possibilities or [])[:1]
    return any(SequenceMatcher(None, error.option_name, name).ratio() >= _SLIP for name in near)


def _told(option: str, words: list[str]) -> str:
    """Say how the settings that an option's name stands for are given; nothing where it stands for none."""
    from ..configs.faults import settings_called
    from ..configs.schema import Config

    paths = settings_called(Config, option.lstrip("-").replace("-", "_"))
    value = _value(option, words)
    return f"A setting is given as {' or '.join(f'{path}={value}' for path in paths)}." if paths else ""


def _value(option: str, words: list[str]) -> Any:
    for place, word in enumerate(words):
        name, sign, value = word.partition("=")
        if name == option:
            after = words[place + 1 : place + 2]
            return value if sign else next((word for word in after if not word.startswith("--")), "VALUE")
    return "VALUE"
