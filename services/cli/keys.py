"""`ringside keys …`: make API keys."""

import os
from pathlib import Path
from typing import Annotated

import typer

from services.errors import BadInputError
from services.web.api_keys import fresh_keys

app = typer.Typer(no_args_is_help=True, help="API keys and the secret that signs recommendation ids.")


@app.command()
def new(
    role: Annotated[
        list[str] | None, typer.Option(help="storefront, analyst or admin; may be repeated. Default: all.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Write a new file that only you can read, instead of the terminal.")
    ] = None,
) -> None:
    """Make new API keys. Each is shown once; RINGSIDE_KEYS holds only their hashes."""
    text = "\n".join(fresh_keys(role or [])) + "\n"
    if to is None:
        typer.echo(text, nl=False)
    else:
        write_secret(to, text)
        typer.echo(f"{to} holds the keys; only you can read it")


def write_secret(path: Path, text: str) -> None:
    """Create a file with mode 600 from its first byte on. Raises BadInputError, also if the file exists."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise BadInputError("--to", f"{path} exists and is not overwritten; choose another file") from error
    except OSError as error:
        raise BadInputError("--to", f"{path} can't be written: {error.strerror}") from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
