"""`ringside data …`: import data versions and show them."""

from typing import Annotated

import typer

from services.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Data versions: what models are trained on.")


@app.command("import")
def import_(  # noqa: PLR0913 (each is an option of the command)
    source: Annotated[
        str,
        typer.Argument(
            help="Path or URL of Online Retail II (xlsx, zip, CSV, Parquet) or of your catalogue (then name "
            "--interactions too); a folder with items.* and interactions.*; or the word synthetic."
        ),
    ],
    interactions: Annotated[str | None, typer.Option(help="Path or URL of your interactions.")] = None,
    split: Annotated[str | None, typer.Option(help="Hold out what happened from this ISO time on.")] = None,
    rebase: Annotated[
        str | None, typer.Option(help="Shift all times: the split, else the end, happens at this ISO time.")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of",
            help="ISO time at which the catalogue was true: changes by /items from before give way to it. "
            "Default: when its file was written.",
        ),
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of your own data.")] = "the storefront's own",
    seed: Annotated[int, typer.Option(help="Of the synthetic shop.")] = 0,
) -> None:
    """Import a data set as a new data version and make it current; a bad file changes nothing."""
    from services.data_import import app as importer

    said = {"split": split, "rebase": rebase, "as_of": as_of}
    moments = {name: importer.moment(name, text) for name, text in said.items()}
    importer.run(Settings(), importer.Order(source, interactions, **moments, licence=licence, seed=seed))


@app.command()
def show(
    version: Annotated[str | None, typer.Argument(help="Default: the current one.")] = None,
) -> None:
    """Say what a data version holds, where it is from, and what cleaning dropped."""
    from services.data_import import app as importer

    importer.show(Settings(), version)
