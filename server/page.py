"""Pages: one self-contained HTML text from a template of this room and what it shows."""

from importlib import resources
from typing import Any

from .svg import COLOURS, DASHES


def page(template: str, **shown: Any) -> str:
    """Render a template; the lines' dashes and the number of their colours are known to all of them."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    files = resources.files(__package__)
    loader = FunctionLoader(lambda name: files.joinpath(name).read_text("utf-8"))
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader)
    return jinja.get_template(template).render(**{"dashes": DASHES, "colours": COLOURS, "live": None, **shown})
