"""Dependencies of the console's routes: shared objects, the person logged in, the selected experiment."""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.templating import Jinja2Templates

from services.console.log_follower import FollowedExperiment, LogFollower, View
from services.console.sessions import COOKIE, Person, Sessions
from services.control.recount import RecountService
from services.settings import Settings
from services.web.rate_limit import RateLimiter


@dataclass(frozen=True, slots=True)
class ConsoleDeps:
    """Objects that all requests of an application share. `wrong_keys` limits them by address: keys can't be
    guessed, but attempts use the CPU."""

    settings: Settings
    follower: LogFollower
    recounting: RecountService
    sessions: Sessions
    wrong_keys: RateLimiter
    templates: Jinja2Templates
    now_ms: Callable[[], int]

    @property
    def view(self) -> View:
        """The newest view."""
        return self.follower.view


class LogInFirstError(Exception):
    """The request has no session: a page leads to the login form, a script gets 401."""


def deps_of(request: Request) -> ConsoleDeps:
    """The dependencies of this application."""
    deps: ConsoleDeps = request.app.state.deps
    return deps


def reader(request: Request) -> Person:
    """Dependency: an analyst or admin. Raises LogInFirstError."""
    person = deps_of(request).sessions.person(request.cookies.get(COOKIE))
    if person is None:
        raise LogInFirstError
    return person


def commander(person: Annotated[Person, Depends(reader)]) -> Person:
    """Dependency: an admin."""
    if not person.may_command:
        raise HTTPException(403, "Commands need the key of an admin.")
    return person


def check_csrf(person: Person, token: str) -> None:
    """Raise 403 unless a form carries the token of this session."""
    given = token.encode(errors="replace")  # may contain lone surrogates
    if not hmac.compare_digest(person.csrf.encode(), given):
        raise HTTPException(403, "This form is not from your session. Reload the page and try again.")


def selected_experiment(request: Request, name: str) -> FollowedExperiment:
    """Dependency: the experiment in the path. Raises 404 if there is none."""
    followed = deps_of(request).view.experiments.get(name)
    if followed is None:
        raise HTTPException(404, f"There is no experiment {name}.")
    return followed


Selected = Annotated[FollowedExperiment, Depends(selected_experiment)]
