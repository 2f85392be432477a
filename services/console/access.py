"""Login, logout and health endpoints."""

from math import ceil
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from services.console.deps import check_csrf, deps_of, reader
from services.console.sessions import COOKIE, MAX_AGE_S, Person

router = APIRouter()


def local_path(target: str) -> str:
    """`target` if it is a path on this console, else "/", so that a login never leads to another site."""
    return target if target.startswith("/") and not target.startswith(("//", "/\\")) else "/"


@router.get("/login")
def login_page(request: Request, next: str = "/") -> HTMLResponse:
    """The login form. A key after `#key=` in the address fills it in; a fragment stays in the browser."""
    return _login(request, next, None, 200)


@router.post("/login")
def login(
    request: Request,
    key: Annotated[str, Form(max_length=400)] = "",
    next: Annotated[str, Form(max_length=2_000)] = "/",
) -> Response:
    """Exchange a key for a session."""
    deps = deps_of(request)
    address = request.client.host if request.client is not None else ""
    if wait_s := ceil(deps.wrong_keys.wait_s(address, deps.now_ms() / 1_000)):
        answer = _login(request, next, f"Too many wrong keys from this address. Wait {wait_s} s.", 429)
        answer.headers["Retry-After"] = str(wait_s)
        return answer
    cookie = deps.sessions.log_in(key)
    if cookie is None:
        deps.wrong_keys.take(address, deps.now_ms() / 1_000)
        return _login(request, next, "This is not the key of an analyst or admin.", 401)
    response = RedirectResponse(local_path(next), 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, cookie, max_age=MAX_AGE_S, httponly=True, samesite="strict", secure=secure)
    return response


@router.post("/logout")
def logout(
    request: Request, person: Annotated[Person, Depends(reader)], csrf: Annotated[str, Form()] = ""
) -> RedirectResponse:
    """End the session."""
    check_csrf(person, csrf)
    deps_of(request).sessions.log_out(person)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE)
    return response


@router.get("/health/live")
def alive() -> dict[str, str]:
    """Liveness: this process runs."""
    return {"status": "live"}


@router.get("/health/ready")
def ready(request: Request) -> JSONResponse:
    """Readiness: the decision log has been read to its end at least once."""
    sources = deps_of(request).view.sources
    ok = sources.read_at_ms > 0
    body = {
        "status": "ready" if ok else "waiting",
        "read_at_ms": sources.read_at_ms,
        "log_error": sources.log_error,
    }
    return JSONResponse(body, 200 if ok else 503)


def _login(request: Request, target: str, problem: str | None, status_code: int) -> HTMLResponse:
    deps = deps_of(request)
    values = {"next": local_path(target), "problem": problem, "usable": deps.sessions.usable, "person": None}
    return deps.templates.TemplateResponse(request, "login.html", values, status_code=status_code)


def login_address(request: Request) -> str:
    """Address of the login form that leads back to this request."""
    query = f"?{request.url.query}" if request.url.query else ""
    return f"/login?next={quote(request.url.path + query)}"
