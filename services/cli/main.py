"""`ringside …`: all commands, each translated into one call. A command imports its modules when called."""

import math
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from services.cli.data import app as data_app
from services.cli.dead_letters import app as letters_app
from services.cli.experiment import app as experiment_app
from services.cli.features import app as features_app
from services.cli.keys import app as keys_app
from services.cli.models import models_app, train
from services.errors import RingsideError
from services.settings import Settings, problems

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Recommendations whose models compete for traffic."
)
app.add_typer(data_app, name="data")
app.add_typer(features_app, name="features")
app.add_typer(experiment_app, name="experiment")
app.add_typer(letters_app, name="dead-letters")
app.add_typer(keys_app, name="keys")
app.add_typer(models_app, name="models")
app.command()(train)


def _positive(number: float | None) -> float | None:
    """Require a positive, finite number. A bound alone would accept nan."""
    if number is not None and not 0 < number < math.inf:
        raise typer.BadParameter(f"{number:g} is not a positive number")
    return number


Port = Annotated[int | None, typer.Option(min=1, max=65_535, help="Port; default: a free one.")]


@app.command()
def recommend(
    reload: Annotated[
        bool, typer.Option("--reload", help="Replace the workers that run here, one by one, then return.")
    ] = False,
    within_s: Annotated[
        float, typer.Option("--within", callback=_positive, help="Seconds to wait for a reload.")
    ] = 300.0,
) -> None:
    """Serve recommendations over HTTP."""
    if reload:
        from services.web.reload import reload as replace_workers

        replace_workers(Settings(), within_s)
        typer.echo("every worker was replaced")
        return
    from services.recommend.app import run

    run(Settings())


def _add_process(name: str, module: str, text: str, former: str = "") -> None:
    """Add the command that runs a process without options. `former`: the name that it had before."""

    def process() -> None:
        import_module(module).run(Settings())

    app.command(name, help=text)(process)
    if former:
        app.command(former, help=text, hidden=True)(process)


_add_process(
    "attribution",
    "services.bandit.attribution.app",
    "Join exposures with events and count matured units.",
    "bandit",
)
_add_process("decider", "services.bandit.decider.app", "Turn sums into weights and rollbacks.")
_add_process("activity", "services.activity.app", "Push recent activity of users into the online features.")
_add_process("lake", "services.lake.app", "Write topics to Parquet.")
_add_process(
    "training", "services.training.app", "Answer retraining requests with new challengers.", "trainer"
)
_add_process("console", "services.console.app", "Serve the analysts' console.")
_add_process("shop", "services.shop.app", "Serve the sample storefront.")


@app.command()
def simulate(
    sessions_per_s: Annotated[
        float, typer.Option("--sessions", callback=_positive, help="Sessions to open per second.")
    ] = 10.0,
    for_s: Annotated[
        float | None, typer.Option("--for", callback=_positive, help="Seconds; default: until stopped.")
    ] = None,
    summary: Annotated[Path | None, typer.Option(help="JSON file, replaced every second.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of arrivals and of choices.")] = 0,
) -> None:
    """Simulate shoppers with known preferences at RINGSIDE_RECOMMEND_URL, with RINGSIDE_STOREFRONT_KEY."""
    from services.simulator.app import Options, run

    run(Settings(), Options(sessions_per_s=sessions_per_s, for_s=for_s, summary=summary, seed=seed))


@app.command()
def demo(
    headless: Annotated[bool, typer.Option(help="Play the story without a browser.")] = False,
    for_s: Annotated[
        float, typer.Option("--for", callback=_positive, help="Seconds to run when headless.")
    ] = 240.0,
    report: Annotated[Path | None, typer.Option(help="File for the JSON report.")] = None,
) -> None:
    """Run the whole loop on this machine, with simulated shoppers."""
    from services.demo.app import run

    raise typer.Exit(run(Settings(), headless=headless, for_s=for_s, report=report))


@app.command()
def broker(
    port: Port = None,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, help="Partitions of exposures and events; default: RINGSIDE_KAFKA_PARTITIONS."),
    ] = None,
) -> None:
    """Run the embedded broker until stopped, and print the settings of its clients.

    It listens on 127.0.0.1. Its log is in memory, has room for attribution windows of seconds, and is lost
    when it stops. `ringside kafka` keeps its log on disk.
    """
    from services.local_servers.embedded_kafka import EmbeddedBroker
    from services.local_servers.process import hold
    from services.runtime.process import stop_on_signal

    stop = stop_on_signal()
    with EmbeddedBroker(partitions or Settings().kafka_partitions, port) as running:
        typer.echo(f"RINGSIDE_KAFKA_MODE=embedded\nRINGSIDE_KAFKA_BOOTSTRAP={running.bootstrap}")
        typer.echo(f"RINGSIDE_KAFKA_PARTITIONS={running.partitions}")
        hold(running.server, stop)


@app.command()
def redis(port: Port = None) -> None:
    """Run a Redis with its data under RINGSIDE_HOME until stopped; print the settings of its clients."""
    from services.local_servers.process import hold, require_free
    from services.local_servers.redis import EmbeddedRedis
    from services.runtime.process import stop_on_signal

    stop = stop_on_signal()
    require_free(port)
    with EmbeddedRedis(Settings().home / "redis", port) as running:
        typer.echo(f"RINGSIDE_REDIS_URL={running.url}")
        hold(running.server, stop)


@app.command()
def kafka(
    port: Port = None,
    partitions: Annotated[
        int, typer.Option(min=1, help="Partitions of exposures and events; fixed at creation.")
    ] = 32,
) -> None:
    """Run Apache Kafka with its log under RINGSIDE_HOME until stopped; print the settings of its clients."""
    from services.local_servers.kafka import LocalKafka
    from services.local_servers.process import hold, require_free
    from services.runtime.process import stop_on_signal

    stop = stop_on_signal()
    require_free(port)
    with LocalKafka(Settings().home / "kafka", partitions, port) as running:
        running.create_topics()
        typer.echo(f"RINGSIDE_KAFKA_MODE=kafka\nRINGSIDE_KAFKA_BOOTSTRAP={running.bootstrap}")
        typer.echo(f"RINGSIDE_KAFKA_PARTITIONS={running.partitions}")
        hold(running.server, stop)


@app.command()
def rebuild() -> None:
    """Restore what Redis lost: experiments, sums, pins, items, features. Deletes nothing."""
    from services.cli.rebuild import run

    raise typer.Exit(min(1, run(Settings())))


@app.command()
def topics() -> None:
    """Create missing topics on the configured broker, with RINGSIDE_KAFKA_PARTITIONS."""
    from services import bootstrap

    settings = Settings()
    created = bootstrap.log_admin(settings).create_topics(settings.kafka_partitions)
    typer.echo(f"created: {', '.join(created)}" if created else "every topic exists")


@app.command()
def health(
    process: Annotated[str, typer.Argument(help="recommend, console, shop, or a worker: attribution …")],
    within_s: Annotated[
        float, typer.Option("--within", callback=_positive, help="Longest silence of a worker, in seconds.")
    ] = 30.0,
) -> None:
    """Check the health of a process on this host: exit status 0, or 1 with the reason."""
    from services.runtime.liveness import unhealthy_reason

    problem = unhealthy_reason(Settings(), process, within_s)
    typer.echo(problem or "healthy", err=bool(problem))
    raise typer.Exit(1 if problem else 0)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list, for machines.")] = False,
) -> None:
    """Check settings, Redis, broker, features, models, disk, clocks and processes; say what to do."""
    from services.doctor.app import run

    raise typer.Exit(run(as_json=as_json))


@app.command("champion-only")
def champion_only(
    on: Annotated[str, typer.Argument(help="on, off or show.", metavar="on|off|show")],
    reason: Annotated[str, typer.Option(help="Reason; kept in the file.")] = "",
) -> None:
    """The kill switch: while on, every replica serves the champion only. Needs neither Redis nor Kafka."""
    from services.control.kill_switch import run_command

    typer.echo(run_command(Settings(), on, reason))


def main() -> None:
    """Entry point. A RingsideError or an invalid setting is one line on stderr instead of a traceback."""
    try:
        app()
    except RingsideError as error:
        raise _refused(str(error)) from error
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        raise _refused("; ".join(problems(error))) from error


def _refused(why: str) -> SystemExit:
    typer.secho(f"ringside: {why}", err=True, fg=typer.colors.RED)
    return SystemExit(2)
