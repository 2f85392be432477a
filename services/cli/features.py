"""`ringside features …`: register, compute and load features."""

import shlex
from typing import Annotated

import typer

from services.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Features: register, compute and load them online.")


@app.command()
def apply() -> None:
    """Register entities, views and feature services with Feast; idempotent."""
    from services.features import app as features

    features.run_apply(Settings())


@app.command()
def materialize(
    every_s: Annotated[
        float | None, typer.Option("--every", min=1, help="Repeat after this many seconds until stopped.")
    ] = None,
) -> None:
    """Compute profiles and statistics as of now and load them online; run it about once an hour."""
    from services.features import app as features

    if every_s is None:
        features.run_materialize(Settings())
    else:
        features.run_every(Settings(), every_s)


@app.command()
def environment() -> None:
    """Print the environment variables that feature_repo needs when `feast` is run by hand."""
    from services import bootstrap

    for name, value in bootstrap.feast_environment(Settings()).items():
        typer.echo(f"export {name}={shlex.quote(value)}")
