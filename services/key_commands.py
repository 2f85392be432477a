"""`ringside keys …`: make API keys."""

from typing import Annotated

import typer

from services.keys import fresh_keys

app = typer.Typer(no_args_is_help=True, help="API keys and the secret that signs recommendation ids.")


@app.command()
def new(
    role: Annotated[
        list[str] | None, typer.Option(help="storefront, analyst or admin; may be repeated. Default: all.")
    ] = None,
) -> None:
    """Make fresh API keys. Each is shown once; RINGSIDE_KEYS holds only their hashes."""
    for line in fresh_keys(role or []):
        typer.echo(line)
