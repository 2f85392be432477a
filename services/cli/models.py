"""`ringside models …` and `ringside train …`."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from services.errors import BadInputError
from services.runtime.clock import wall_ms
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
    from services.runtime.progress import shown
    from services.training.offline_report import LINE_UP, make_report

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


Algorithm = Annotated[str, typer.Argument(help="popularity, als, content, linear or inverted.")]
Registry = Annotated[bool, typer.Option(help="Note the model in MLflow, which takes seconds to start.")]


@models_app.command()
def fit(algorithm: Algorithm, params: Params = None, registry: Registry = True) -> None:
    """Fit a model on the latest window, judge it offline, save and register it. Prints the model version."""
    from services.training.app import record, train_by_command

    trained = train_by_command(Settings(), algorithm, parse_params(params or []), against_champion=False)
    if registry:
        record(Settings(), trained)
    typer.echo(trained.manifest.model_version)


def train(
    algorithm: Algorithm,
    params: Params = None,
    enter: Annotated[bool, typer.Option("--enter", help="Let it join the experiment as challenger.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Enter even if the offline gate says no.")] = False,
    arm: Annotated[str | None, typer.Option(help="Name of its arm; the model version by default.")] = None,
) -> None:
    """Fit a model on the latest window at low priority; with --enter it joins the experiment as challenger.

    The offline gate compares its recipe with the champion's. A refused model is saved, but enters only with
    --force. Prints the model version.
    """
    from services.training.app import enter_by_command, record, train_by_command

    os.nice(10)
    settings = Settings()
    trained = train_by_command(settings, algorithm, parse_params(params or []), against_champion=enter)
    wanted = enter and (trained.verdict.passed or force)
    if wanted:
        state = enter_by_command(settings, trained, arm, now_ms=wall_ms())
        typer.echo(f"entered {settings.experiments.default} at revision {state.revision}", err=True)
    record(settings, trained)
    typer.echo(trained.manifest.model_version)
    if enter and not wanted:
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
