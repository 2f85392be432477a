"""`ringside features …`: what the command line says, as calls of the process beside it."""

import shlex
from typing import Annotated

import typer

from services.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Features: register them, compute them, load them online.")


@app.command()
def apply() -> None:
    """Register entities, views and feature services with Feast; idempotent."""
    from services.features import app as features

    features.run_apply(Settings())


@app.command()
def materialize(
    every_s: Annotated[
        float | None, typer.Option("--every", min=1, help="Seconds; go on until stopped.")
    ] = None,
) -> None:
    """Compute profiles and statistics as of now and load them online; run it every hour or so."""
    from services.features import app as features

    features.run_materialize(Settings()) if every_s is None else features.run_every(Settings(), every_s)


@app.command()
def environment() -> None:
    """Print the variables that feature_repo reads, for use of the `feast` command by hand."""
    from services.features import app as features

    for name, value in features.environment(Settings()).items():
        typer.echo(f"export {name}={shlex.quote(value)}")
