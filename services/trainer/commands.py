"""`ringside models …` and `ringside train …`."""

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from services.errors import BadInputError
from services.settings import Settings

models_app = typer.Typer(no_args_is_help=True, help="Models: offline report, artifacts, fitting.")
Params = Annotated[
    list[str] | None, typer.Option("--set", help="Parameter of the algorithm: name=value; repeat for more.")
]


@models_app.command()
def report(
    test_days: Annotated[float, typer.Option(help="Length of the test window, days.")] = 28.0,
    skip: Annotated[int, typer.Option(help="1: judge on the window before the last, for tuning.")] = 0,
    only: Annotated[list[str] | None, typer.Option(help="Only this algorithm; repeat for more.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table here too.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything here.")] = None,
) -> None:
    """Judge every algorithm on a time split of the current data version."""
    from services import bootstrap
    from services.trainer.report import LINE_UP, make_report
    from services.trainer.showing import shown

    settings = Settings()
    bootstrap.configure_logging(settings, "report")
    line_up = [entry for entry in LINE_UP if not only or entry.algorithm in only]
    dataset = bootstrap.data_store(settings).load()
    with shown("report") as progress:
        found = make_report(
            dataset,
            lambda: bootstrap.text_encoder(settings),
            progress,
            test_days=test_days,
            skip=skip,
            line_up=line_up,
        )
    typer.echo(found.to_markdown())
    if markdown:
        markdown.write_text(found.to_markdown())
    if json_file:
        json_file.write_text(json.dumps(found.to_json(), indent=1))


@models_app.command("list")
def list_models() -> None:
    """Artifacts on disk, oldest first, each verified."""
    from services import bootstrap
    from services.errors import ArtifactError

    store = bootstrap.model_store(Settings())
    for version in store.versions():
        try:
            _, manifest = store.load(version)
        except ArtifactError as error:
            typer.secho(f"REFUSED {error}", fg=typer.colors.RED)
            continue
        judged = manifest.metrics.get("recall@20")
        score = "not judged" if judged is None else f"recall@20 {judged:.4f} on new items"
        typer.echo(f"{version}  data {manifest.data_version}  {score}  code {manifest.code_version}")


@models_app.command()
def fit(
    algorithm: Annotated[str, typer.Argument(help="popularity, als, content, linear or inverted.")],
    params: Params = None,
) -> None:
    """Fit a model on the latest window, judge it, save and register it."""
    train(algorithm, params=params)


def train(
    algorithm: Annotated[str, typer.Argument(help="popularity, als, content, linear or inverted.")],
    params: Params = None,
    enter: Annotated[bool, typer.Option("--enter", help="Let it join the experiment as challenger.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Enter even if the offline gate says no.")] = False,
    arm: Annotated[str | None, typer.Option(help="Name of its arm; the model version by default.")] = None,
    low_priority: Annotated[bool, typer.Option(help="Give way to other processes.")] = True,
) -> None:
    """Fit a model on the latest window; with --enter it joins the experiment as challenger.

    Prints the model version. The offline gate compares it with the champion's recipe; a refused one is
    saved, but
    enters only with --force.
    """
    from services import bootstrap
    from services.trainer.app import champion_recipe, enter_by_command, make_workshop
    from services.trainer.recipes import recipe
    from services.trainer.showing import shown

    settings = Settings()
    bootstrap.configure_logging(settings, "train")
    if low_priority:
        os.nice(10)
    made = recipe(algorithm, parse_params(params or []))
    with shown(algorithm) as progress:
        trained = make_workshop(settings).train(made, champion_recipe(settings) if enter else None, progress)
    typer.echo(trained.verdict.reason, err=True)
    if enter and (trained.verdict.passed or force):
        state = enter_by_command(settings, trained, arm, now_ms=time.time_ns() // 1_000_000)
        typer.echo(f"entered {settings.experiment} at revision {state.revision}", err=True)
    typer.echo(trained.manifest.model_version)
    if enter and not trained.verdict.passed and not force:
        raise BadInputError(
            "algorithm", f"{algorithm} stays out: {trained.verdict.reason}; --force overrides"
        )


def parse_params(pairs: list[str]) -> dict[str, Any]:
    """`name=value` pairs; values are JSON where they can be, else text. Raises BadInputError naming a
    bad pair.

    >>> parse_params(["factors=32", "trend=0.5"])
    {'factors': 32, 'trend': 0.5}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise BadInputError("--set", f"{pair!r} is not name=value")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
