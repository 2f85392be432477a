"""Templates of the pages: every value is escaped, and an unknown name is an error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined

Functions = Mapping[str, Any]  # of any signature


def page_templates(folder: Path, functions: Functions, filters: Functions | None = None) -> Jinja2Templates:
    """The templates of a folder, which may call `functions` and `filters` by name."""
    env = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals |= functions
    env.filters |= filters or {}
    return Jinja2Templates(env=env)
