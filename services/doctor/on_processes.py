"""Processes of this host, by the signs of life that their loops leave."""

from collections.abc import Iterator

from services import bootstrap
from services.doctor.findings import Finding, fail, ok
from services.settings import Settings

SILENT_S = 30.0
LONG_TURNS = {"features": 1_800.0, "trainer": 3_600.0}  # a run, a fit: one turn of a loop
TODO = "start it, or remove its file in {home}/alive if it was stopped for good"


def processes(settings: Settings) -> Iterator[Finding]:
    """Each one that was not told to stop still turns. Those of other hosts and containers are their own
    doctor's business: a container that is gone leaves a file under a name that never comes again."""
    for process, age_s in bootstrap.silent_s(settings).items():
        if age_s > LONG_TURNS.get(process, SILENT_S):
            todo = TODO.format(home=settings.home.absolute())
            yield fail("processes", f"{process}: silent for {_spoken(age_s)}", todo)
        else:
            yield ok("processes", f"{process} is alive")


def _spoken(age_s: float) -> str:
    """In the unit that says it shortest.

    >>> _spoken(39.4), _spoken(7_200), _spoken(400_000)
    ('39 s', '2.0 h', '4.6 days')
    """
    if age_s < 3_600:
        return f"{age_s:.0f} s"
    return f"{age_s / 3_600:.1f} h" if age_s < 86_400 else f"{age_s / 86_400:.1f} days"
