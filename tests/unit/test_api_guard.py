"""Who may ask, how much, and what a refusal says; over routes whose service is a stub."""

from typing import Any, cast
from uuid import UUID

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from ops.api.application import Api, application
from ops.api.config import ApiConfig, api_config
from ops.api.openapi import document
from ops.api.service import Service
from ops.connect import Connections
from ops.embedded.state import Home
from ops.errors import Refused
from ops.settings import ApiSettings, Settings
from storage.postgres.gauges import Gauges, PostgresGauges, QuestionCount, TopicCount
from storage.postgres.ledger import PostgresLedger
from storage.postgres.pool import Unavailable
from tests.support.asgi import request

_TOKEN = "a-token-of-some-length"
_MINE = {"Authorization": f"Bearer {_TOKEN}"}
_SECRET = "the gold answer 7f3a"
_QUESTION = UUID("00000000-0000-4000-8000-0000000000aa")


class _NoLedger:
    """A ledger whose database is away."""

    pool = None

    async def run_named(self, name: str) -> Any:
        raise Unavailable("away")


class _Outlet:
    """Takes records, and shows them."""

    def __init__(self) -> None:
        self.records: list[bytes] = []

    async def put(self, topic: str, key: bytes | None, value: bytes) -> None:
        self.records.append(value)

    async def flush(self) -> None:
        return


class _Gauges:
    """A look at a ledger with one question."""

    async def alive(self) -> None:
        return

    async def read(self) -> Gauges:
        return Gauges(
            questions=(QuestionCount("r", "answered", 3),),
            in_flight=(("r", 2),),
            commands=(TopicCount("mia.plan", 4, 1, 0.5),),
            events=(("r", 99),),
            unacknowledged=0,
            dead_letters=(("refused", 1),),
        )


@pytest.fixture
def outlet() -> _Outlet:
    """Give where the service would publish."""
    return _Outlet()


@pytest.fixture
def app(outlet: _Outlet) -> Starlette:
    """Give the routes over stubs."""
    service = Service(cast("PostgresLedger", _NoLedger()), outlet)
    return application(Api(service, cast("PostgresGauges", _Gauges()), 5_000), _TOKEN)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer another-token-of-length"},
        {"Authorization": f"Basic {_TOKEN}"},
        {"Authorization": _TOKEN},
        {"Authorization": f"Bearer {_TOKEN}x"},
        {"Authorization": "Bearer "},
    ],
)
@pytest.mark.parametrize(
    "method,path",
    [
        ("POST", "/questions"),
        ("GET", f"/questions/{_QUESTION}"),
        ("GET", f"/questions/{_QUESTION}/events"),
        ("POST", "/labels"),
        ("GET", "/memories"),
        ("GET", "/metrics"),
        ("GET", "/nowhere"),
    ],
)
async def test_without_the_token_nothing_is_done(
    app: Starlette, outlet: _Outlet, method: str, path: str, headers: dict[str, str]
) -> None:
    """Not even whether a path is there is told."""
    reply = await request(app, method, path, {"question": "q?"}, headers)
    assert (401, "Bearer") == (reply.status, reply.headers["www-authenticate"])
    assert "unauthorized" == reply.json["error"]["code"]
    assert [] == outlet.records


@pytest.mark.parametrize("path", ["/health", "/openapi.json"])
async def test_what_tells_nothing_needs_no_token(app: Starlette, path: str) -> None:
    """A balancer asks for health, a generator for the description."""
    assert 200 == (await request(app, "GET", path)).status


async def test_a_large_body_is_refused_while_it_comes(app: Starlette) -> None:
    """Whatever a header says of its length."""
    body = {"question": "q?", "documents": [{"title": "t", "text": "x" * 6_000}]}
    reply = await request(app, "POST", "/questions", body, _MINE)
    assert (413, "too_large") == (reply.status, reply.json["error"]["code"])


@pytest.mark.parametrize(
    "path,body",
    [
        ("/questions", {"question": "q?", "answer": _SECRET}),
        ("/questions", {"question": "q?", "documents": [{"Gold-Answer": _SECRET}]}),
        ("/labels", {"label": [_SECRET], "id": "x"}),
        ("/labels", {"label": _SECRET}),
        ("/labels", {"label": f"{_SECRET}\x00", "id": "x"}),
    ],
)
async def test_a_label_is_never_repeated(
    app: Starlette, outlet: _Outlet, path: str, body: dict[str, Any]
) -> None:
    """A refusal says which field, and nothing of its value reaches Kafka."""
    reply = await request(app, "POST", path, body, _MINE)
    assert 400 == reply.status
    assert _SECRET.encode() not in reply.body
    assert [] == outlet.records


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"\xff", b'{"question": ""}', b'{"question": "q?", "id": "mine"}',
     b'{"question": "q?", "position": 3}', b'{"question": 7}', b'{"question": "q?", "urgent": 1}'],
)  # fmt: skip
async def test_what_is_no_question_is_refused(app: Starlette, body: bytes) -> None:
    """Each with a sentence; the name of a question is the header's alone."""
    reply = await request(app, "POST", "/questions", body, _MINE)
    assert (400, True) == (reply.status, bool(reply.json["error"]["message"]))


async def test_a_database_that_is_away_is_said_so(app: Starlette) -> None:
    """Try again later, not a stack of lines."""
    reply = await request(app, "POST", "/questions", {"question": "q?"}, _MINE)
    assert (503, "unavailable") == (reply.status, reply.json["error"]["code"])
    assert "2" == reply.headers["retry-after"]


@pytest.mark.parametrize(
    "method,path,status",
    [("GET", "/nowhere", 404), ("DELETE", "/questions", 405), ("GET", "/questions/7", 404)],
)
async def test_what_is_not_there_is_json_too(
    app: Starlette, method: str, path: str, status: int
) -> None:
    """A program reads every reply the same way."""
    reply = await request(app, method, path, headers=_MINE)
    assert (status, {"code", "message"}) == (reply.status, set(reply.json["error"]))


async def test_metrics_are_prometheus_text(app: Starlette) -> None:
    """Names with their labels and values."""
    reply = await request(app, "GET", "/metrics", headers=_MINE)
    lines = reply.body.decode().splitlines()
    assert 'mia_questions{run="r",status="answered"} 3.0' in lines
    assert 'mia_pending_commands{topic="mia.plan"} 4.0' in lines
    assert 'mia_events_total{run="r"} 99.0' in lines
    assert reply.headers["content-type"].startswith("text/plain")


def test_the_description_has_every_route_and_no_other(app: Starlette) -> None:
    """Paths, methods, and which of them need the token."""
    routes = {
        (route.path, method.lower())
        for route in app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = document()["paths"]
    assert routes == {(path, method) for path, item in described.items() for method in item}
    is_open = {p for p, item in described.items() for one in item.values() if "security" not in one}
    assert {"/health", "/openapi.json"} == is_open


def test_the_descriptions_references_lead_somewhere() -> None:
    """Every schema that is named is there."""
    text = msgspec.json.encode(document()).decode()
    named = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= set(document()["components"]["schemas"])


def _config(tmp_path: Any, **chosen: Any) -> ApiConfig:
    settings = Settings(home=str(tmp_path / "home"), api=ApiSettings(**chosen))
    Home(tmp_path / "home").create()
    connections = Connections({"bootstrap_servers": "b:1"}, None, "postgresql://x", settings, "h:1")
    return api_config(settings, connections, 7)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])
def test_other_machines_are_not_served_without_a_token(tmp_path: Any, host: str) -> None:
    """The token that the state folder makes by itself does for this machine only."""
    with pytest.raises(Refused, match="no token is set"):
        _config(tmp_path, host=host)
    (tmp_path / "token").write_text("0123456789abcdef\n")
    chosen = _config(tmp_path, host=host, token_file=str(tmp_path / "token"))
    assert (host, "0123456789abcdef") == (chosen.host, chosen.token)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_on_loopback_a_token_is_made(tmp_path: Any, host: str) -> None:
    """The same one each time, long enough, and the database sessions cannot write."""
    first, second = _config(tmp_path, host=host), _config(tmp_path, host=host)
    assert first.token == second.token
    assert len(first.token) >= 16
    assert "default_transaction_read_only=on" in first.dsn


def test_a_short_token_is_refused(tmp_path: Any) -> None:
    """It would be guessed."""
    (tmp_path / "token").write_text("short\n")
    with pytest.raises(Refused, match="fewer than 16"):
        _config(tmp_path, token_file=str(tmp_path / "token"))
