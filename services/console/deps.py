"""Dependencies of the console's routes: shared objects, the person logged in, the selected experiment."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.templating import Jinja2Templates

from services.console.log_follower import FollowedExperiment, LogFollower, View
from services.console.sessions import COOKIE, LoginThrottle, Person, Sessions
from services.control.recount import RecountService
from services.settings import Settings


@dataclass(frozen=True, slots=True)
class ConsoleDeps:
    """Objects that all requests of an application share."""

    settings: Settings
    follower: LogFollower
    recounting: RecountService
    sessions: Sessions
    login_throttle: LoginThrottle
    templates: Jinja2Templates
    now_ms: Callable[[], int]

    @property
    def view(self) -> View:
        """The newest view."""
        return self.follower.view


@dataclass(frozen=True, slots=True)
class SelectedExperiment:
    """The experiment in the path of a request."""

    name: str
    followed: FollowedExperiment


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


def selected_experiment(request: Request, name: str) -> SelectedExperiment:
    """Dependency: the experiment in the path. Raises 404 if there is none."""
    followed = deps_of(request).view.experiments.get(name)
    if followed is None:
        raise HTTPException(404, f"There is no experiment {name}.")
    return SelectedExperiment(name, followed)
