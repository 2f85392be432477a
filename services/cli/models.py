"""`ringside models …` and `ringside train …`."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from models.algorithms import ALGORITHM_NAMES, UnknownAlgorithmError, current_name
from services.errors import BadInputError
from services.runtime.clock import wall_ms
from services.settings import Settings


def algorithm_name(name: str) -> str:
    """The present name of an algorithm; former names are accepted without being listed."""
    try:
        return current_name(name)
    except UnknownAlgorithmError as error:
        raise typer.BadParameter(str(error)) from error


models_app = typer.Typer(no_args_is_help=True, help="Models: offline report, artifacts, fitting.")
Algorithm = Annotated[
    str,
    typer.Argument(parser=algorithm_name, metavar="ALGORITHM", help=f"One of {', '.join(ALGORITHM_NAMES)}."),
]
Params = Annotated[
    list[str] | None,
    typer.Option("--set", help="Parameter of the algorithm as name=value; repeat it to set several."),
]
Registry = Annotated[
    bool, typer.Option(help="Record the model in the MLflow registry, which takes seconds to start.")
]


@models_app.command()
def report(
    test_days: Annotated[float, typer.Option(help="Length of the test window, days.")] = 28.0,
    skip: Annotated[int, typer.Option(help="1: evaluate on the window before the last, for tuning.")] = 0,
    only: Annotated[
        list[str] | None,
        typer.Option(
            parser=algorithm_name, metavar="ALGORITHM", help="Only this algorithm; repeat it for several."
        ),
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the tables to this file.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all measurements to this file.")
    ] = None,
) -> None:
    """Evaluate every algorithm on a time split of the current data version."""
    from services import bootstrap
    from services.runtime.progress import show_progress
    from services.training.offline_report import make_report, report_entries

    settings = Settings()
    bootstrap.configure_logging(settings, "report")
    dataset = bootstrap.data_store(settings).load()
    with show_progress("report") as progress:
        result = make_report(
            dataset,
            lambda: bootstrap.text_encoder(settings),
            progress,
            test_days=test_days,
            skip=skip,
            entries=report_entries(only or ALGORITHM_NAMES),
        )
    typer.echo(result.to_markdown())
    if markdown:
        markdown.write_text(result.to_markdown())
    if json_file:
        json_file.write_text(json.dumps(asdict(result), indent=1))


@models_app.command("list")
def list_models() -> None:
    """List and verify the artifacts on disk, oldest first."""
    from services import bootstrap
    from services.errors import ArtifactError

    store = bootstrap.model_store(Settings())
    for version in store.versions():
        try:
            _, manifest = store.load(version)
        except ArtifactError as error:
            typer.secho(f"REFUSED {error}", fg=typer.colors.RED)
            continue
        recall = manifest.metrics.get("recall@20")
        score = "not evaluated" if recall is None else f"recall@20 {recall:.4f} on new items"
        typer.echo(f"{version}  data {manifest.data_version}  {score}  code {manifest.code_version}")


@models_app.command()
def fit(algorithm: Algorithm, params: Params = None, registry: Registry = True) -> None:
    """Fit a model on the latest window, evaluate it offline, save and register it. Prints the model
    version."""
    from services.training.app import record, train_by_command

    trained = train_by_command(Settings(), algorithm, parse_params(params or []), against_champion=False)
    if registry:
        record(Settings(), trained)
    typer.echo(trained.manifest.model_version)


def train(
    algorithm: Algorithm,
    params: Params = None,
    enter: Annotated[bool, typer.Option("--enter", help="Enter it into the experiment.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Enter even if the offline gate refuses.")] = False,
    arm: Annotated[str | None, typer.Option(help="Name of its arm; the model version by default.")] = None,
) -> None:
    """Fit a model on the latest window at low priority; with --enter it joins the experiment as challenger.

    The offline gate compares it with the champion. A refused model is saved, but enters only with --force.
    Prints the model version.
    """
    from services.training.app import enter_by_command, record, train_by_command

    os.nice(10)
    settings = Settings()
    trained = train_by_command(settings, algorithm, parse_params(params or []), against_champion=enter)
    entering = enter and (trained.gate.passed or force)
    if entering:
        state = enter_by_command(settings, trained, arm, now_ms=wall_ms())
        typer.echo(f"entered {settings.experiments.default} at revision {state.revision}", err=True)
    record(settings, trained)
    typer.echo(trained.manifest.model_version)
    if enter and not entering:
        raise BadInputError(
            "algorithm", f"{algorithm} was not entered: {trained.gate.reason}; --force overrides the gate"
        )


def parse_params(pairs: list[str]) -> dict[str, object]:
    """`name=value` pairs as a dict; a value is JSON if it parses as JSON, else text.

    Raises BadInputError naming a bad pair.

    >>> parse_params(["factors=32", "trend=0.5"])
    {'factors': 32, 'trend': 0.5}
    """
    params: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise BadInputError("--set", f"{pair!r} is not name=value")
        try:
            params[name] = json.loads(value)
        except ValueError:
            params[name] = value
    return params
