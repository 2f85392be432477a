"""What the routes of the console share: the desk they work at, who may read, which experiment was asked
for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.templating import Jinja2Templates

from services.console.log_follower import Followed, Follower, View
from services.console.sessions import COOKIE, LoginThrottle, Person, Sessions
from services.control.recount import RecountService
from services.settings import Settings


@dataclass(frozen=True, slots=True)
class ConsoleDeps:
    """Everything a request needs; one an application."""

    settings: Settings
    follower: Follower
    recounting: RecountService
    sessions: Sessions
    guesses: LoginThrottle
    templates: Jinja2Templates
    now_ms: Callable[[], int]

    @property
    def view(self) -> View:
        """The newest view."""
        return self.follower.view


@dataclass(frozen=True, slots=True)
class Found:
    """An experiment that exists."""

    name: str
    followed: Followed


class LogInFirstError(Exception):
    """Nobody is logged in: pages lead to the log-in, scripts get 401."""


def desk_of(request: Request) -> ConsoleDeps:
    """The desk of this application."""
    return request.app.state.desk


def reader(request: Request) -> Person:
    """Dependency: an analyst or admin. Raises LogInFirstError."""
    person = desk_of(request).sessions.person(request.cookies.get(COOKIE))
    if person is None:
        raise LogInFirstError
    return person


def commander(person: Annotated[Person, Depends(reader)]) -> Person:
    """Dependency: an admin."""
    if not person.may_command:
        raise HTTPException(403, "An analyst reads; commands need an admin key.")
    return person


def found(request: Request, name: str) -> Found:
    """Dependency: the experiment in the path, or 404."""
    followed = desk_of(request).view.experiments.get(name)
    if followed is None:
        raise HTTPException(404, f"The log knows no experiment {name}.")
    return Found(name, followed)
