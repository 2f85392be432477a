"""`ringside data …`: import and show data versions."""

from typing import Annotated

import typer

from services.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Data versions, on which models are trained.")


@app.command("import")
def import_(  # noqa: PLR0913 (each is an option)
    source: Annotated[
        str,
        typer.Argument(
            help="Path or URL of Online Retail II (xlsx, zip, CSV, Parquet) or of your catalogue (then give "
            "--interactions too); a folder with items.* and interactions.*; or the word synthetic."
        ),
    ],
    interactions: Annotated[str | None, typer.Option(help="Path or URL of your interactions.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Hold out all interactions from this ISO time on.")
    ] = None,
    rebase: Annotated[
        str | None,
        typer.Option(help="Shift all times so that the split, or else the end, is at this ISO time."),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of",
            help="ISO time at which the catalogue was true; it overrides earlier changes by /items. "
            "Default: when its file was written.",
        ),
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of your own data.")] = "the storefront's own",
    seed: Annotated[int, typer.Option(help="Seed of the synthetic shop.")] = 0,
) -> None:
    """Import a data set as a new data version and make it current; an invalid file changes nothing."""
    from services.data_import.app import ImportRequest, parse_time, run

    request = ImportRequest(
        source,
        interactions,
        split=parse_time("split", split),
        rebase=parse_time("rebase", rebase),
        as_of=parse_time("as_of", as_of),
        licence=licence,
        seed=seed,
    )
    run(Settings(), request)


@app.command()
def show(
    version: Annotated[str | None, typer.Argument(help="Default: the current one.")] = None,
) -> None:
    """Print the contents of a data version, its source, and the rows that cleaning dropped."""
    from services.data_import.app import show as print_version

    print_version(Settings(), version)
