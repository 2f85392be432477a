"""`ringside data import http://…`: downloads from a real HTTP server succeed or change nothing."""

import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from services.adapters.files.data_store import ParquetDataStore
from services.data_import.app import ImportRequest, import_data
from services.errors import BadInputError
from services.settings import Settings

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ITEMS = b"item_id,title,price\na,First,1\nb,Second,2.5\n"
LINES = b"user_id,item_id,at\nu1,a,2026-01-01T10:00:00Z\nu2,b,2026-01-02T10:00:00Z\n"
CHANGED = "Mon, 04 May 2026 10:00:00 GMT"


def zipped(name: str, body: bytes) -> bytes:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, body)
    return packed.getvalue()


class Server(BaseHTTPRequestHandler):
    """`/items.csv`, `/lines.csv`, and one path for each way in which a download fails."""

    pages: ClassVar[dict[str, tuple[str, bytes]]] = {
        "/items.csv": ("text/csv", ITEMS),
        "/lines.csv": ("text/csv", LINES),
        "/export": ("text/csv; charset=utf-8", ITEMS),
        "/items.zip": ("application/zip", zipped("items.csv", ITEMS)),
        "/torn.zip": ("application/zip", zipped("items.csv", ITEMS * 400)[:-400]),
        "/bomb.zip": ("application/zip", zipped("items.csv", b"x" * 1_000_000)),
        "/login.csv": ("text/html", b"<html>please log in</html>"),
    }

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/moved.csv":
            self.send_response(302)
            self.send_header("Location", "/items.csv")
            self.end_headers()
        elif path == "/cut.csv":
            self._begin("text/csv", len(ITEMS))
            self.wfile.write(ITEMS[:20])
        elif path == "/cut-chunks.csv":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"14\r\n" + ITEMS[:20] + b"\r\n")
        elif path == "/endless.csv":
            self._begin("text/csv", 1 << 40)
            self._pour()
        elif path in self.pages:
            kind, body = self.pages[path]
            self._begin(kind, len(body))
            self.wfile.write(body)
        else:
            self.send_error(404)

    def _begin(self, kind: str, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.send_header("Last-Modified", "yesterday" if self.path == "/lines.csv" else CHANGED)
        self.end_headers()

    def _pour(self) -> None:
        try:
            while True:
                self.wfile.write(b"x" * 65_536)
        except OSError:  # the client closed the connection
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    class Chunking(Server):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            self.close_connection = True
            self.handle_one_request()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Chunking)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def settings(settings_for: Callable[..., Settings]) -> Settings:
    return settings_for(import_max_bytes=100_000)


@pytest.mark.parametrize("path", ["/items.csv", "/moved.csv", "/export", "/items.zip", "/items.csv?a=b/c.x"])
def test_a_catalogue_and_interactions_are_fetched(url: str, path: str, settings: Settings) -> None:
    manifest = import_data(settings, ImportRequest(url + path, f"{url}/lines.csv"), NOW)
    data = ParquetDataStore(settings.data_path).load()
    assert data.catalogue.items.tolist() == ["a", "b"]
    assert manifest["counts"] == {"items": 2, "users": 2, "interactions": 2}
    assert manifest["catalogue"]["as_of"] == "2026-05-04T10:00:00+00:00"


def test_secrets_of_an_address_are_not_kept(url: str, settings: Settings) -> None:
    address = url.replace("//", "//me:secret@") + "/items.csv?signature=hidden"
    manifest = import_data(settings, ImportRequest(address, f"{url}/lines.csv"), NOW)
    assert manifest["source"] == f"{url}/items.csv"
    with pytest.raises(BadInputError) as refused:
        import_data(settings, ImportRequest(address.replace("items", "none"), f"{url}/lines.csv"), NOW)
    assert "secret" not in str(refused.value)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/none.csv", "the server answered 404"),
        ("/cut.csv", "without sending complete message body"),
        ("/cut-chunks.csv", "peer closed connection"),
        ("/endless.csv", "is larger than 100,000 bytes .*RINGSIDE_IMPORT_MAX_BYTES"),
        ("/bomb.zip", "is larger than 100,000 bytes unpacked"),
        ("/torn.zip", "torn.zip"),
        ("/login.csv", "has no column"),
    ],
)
@pytest.mark.parametrize("interactions", [False, True])
def test_a_broken_download_leaves_everything_as_it_was(
    url: str, path: str, why: str, interactions: bool, settings: Settings, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "fetched"))
    (tmp_path / "fetched").mkdir()
    before = import_data(settings, ImportRequest(f"{url}/items.csv", f"{url}/lines.csv"), NOW)["version"]
    files = sorted(settings.data_path.rglob("*"))
    request = (
        ImportRequest(f"{url}/items.csv", url + path)
        if interactions
        else ImportRequest(url + path, f"{url}/lines.csv")
    )
    with pytest.raises(BadInputError, match=why):
        import_data(settings, request, NOW)
    assert ParquetDataStore(settings.data_path).current() == before
    assert sorted(settings.data_path.rglob("*")) == files
    assert not list((tmp_path / "fetched").iterdir())


@pytest.mark.parametrize("address", [
    "http://127.0.0.1:1/items.csv", "http://[::bad/items.csv", "http:///x", "http://..a/x", r"http://xn--\x00/a.csv",
])  # fmt: skip
def test_an_address_where_nobody_answers_is_refused(address: str, settings: Settings) -> None:
    with pytest.raises(BadInputError, match="source: http:"):
        import_data(settings, ImportRequest(address, address), NOW)
    assert not settings.data_path.exists()
