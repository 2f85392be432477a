"""Schemathesis on the whole HTTP contract: what the OpenAPI document allows gets a documented answer."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support.small_shop import KEYS, Caller, SmallShop, ids

from services.ports.features import UserRow
from services.recommend.http_app import create_app
from services.web.worker_supervisor import listener

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> SmallShop:
    shop = SmallShop(tmp_path_factory.mktemp("shop"))
    shop.race(0.5)
    shop.reader.rows["anna"] = UserRow(("i1",), (shop.now_ms,), ("view",), shop.now_ms)
    return shop


@pytest.fixture(scope="module")
def call(shop: SmallShop) -> Iterator[Caller]:
    with shop.client() as caller:
        yield caller


@pytest.fixture(scope="module")
def address(call: Caller) -> Iterator[str]:
    """The application of `call` on a real socket: Schemathesis speaks through requests."""
    open_at = listener("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(call.http.app, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run, args=([open_at],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{open_at.getsockname()[1]}"
    server.should_exit = True
    thread.join()


# The document needs no running application: nothing is opened before its lifespan begins.
schema = schemathesis.openapi.from_dict(create_app(SmallShop(Path("nowhere")).deps()).openapi())


@schema.parametrize()
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_whatever_is_allowed_gets_a_documented_answer(case: schemathesis.Case, address: str) -> None:
    response = case.call(base_url=address, headers={"X-API-Key": KEYS["admin"][0]})
    case.validate_response(response, checks=CHECKS)


def test_every_example_of_the_documentation_works(call: Caller, shop: SmallShop) -> None:
    paths = call.get("/openapi.json", None).json()["paths"]
    for path in ("/recommend", "/rerank", "/events"):
        said = paths[path]["post"]["requestBody"]["content"]["application/json"]["example"]
        response = call.post(path, said)
        assert response.status_code in (200, 202), (path, response.text)
    query = {
        part["name"]: part["example"]
        for part in paths["/recommend"]["get"]["parameters"]
        if "example" in part
    }
    assert len(ids(call.get("/recommend", params=query).json())) == query["n"]
