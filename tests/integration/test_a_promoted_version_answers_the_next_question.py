"""What an operator promotes is loaded at the planner's server and answers what opens from there on.

Kafka, Postgres, workers and the process that keeps servers level are real, the server's models are
scripted; it takes adapters, or exchanges all its weights, as vLLM does.
"""

import asyncio
import contextlib
import json
import shutil
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from consumers.train.packing import pack, unpack
from mia_events.learning.versions import SERVED_BASE, held_by, is_served_name
from ops.connect import connections
from ops.embedded.state import free_port
from ops.evidence.adapters import random_adapter
from storage.postgres.artifacts import PostgresArtifacts
from storage.postgres.pool import open_pool
from tests.integration.test_embedded_lifecycle import Mia
from tests.support.scripted_model import spawn
from tests.support.stack import new_home

_RUN = "versions"
_PATIENCE_S = 90.0
_REGISTER = """
INSERT INTO policy (run_no, number, name, parent, batch, state, adapter_sha, optimizer_sha,
                    data_sha, record, event_id, at)
SELECT r.run_no, 1, 'planner@v1', 'base', 0, 'promoted', $2, $2, $2, '{}', $3, now()
FROM run AS r WHERE r.name = $1
"""
_ANSWERED_BY = """
SELECT DISTINCT f.policy, coalesce(convert_from(a.body, 'UTF8')::jsonb ->> 'policy', 'base') AS told
FROM event AS p JOIN effect AS f ON f.run_no = p.run_no AND f.event_id = p.id AND f.kind = 'call'
JOIN event AS a ON a.run_no = p.run_no AND a.stream = p.correlation AND a.type = 'question.answered'
JOIN run AS r ON r.run_no = p.run_no
WHERE r.name = $1 AND p.type = 'rollout.opened' AND p.at > $2
"""


class _Server:
    """The scripted model in a process that can be killed and started again."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._port = free_port(set())
        self._open = contextlib.ExitStack()
        self.base_url = f"http://127.0.0.1:{self._port}/v1"

    def start(self) -> None:
        self._open.enter_context(spawn(self._port, "--model", "scripted"))

    def stop(self) -> None:
        self._open.close()

    def versions(self) -> list[str]:
        """What it serves now. Of full weights: one, in turns while questions of two are open."""
        if self.kind == "full":
            held = held_by(_got(self.base_url.removesuffix("v1") + "weight_info")["weight_version"])
            return [held] if held and held != SERVED_BASE else []
        cards = _got(f"{self.base_url}/models")["data"]
        return [card["id"] for card in cards if is_served_name(card["id"])]

    @property
    def base(self) -> str:
        """What a reply of the base model is recorded as."""
        return SERVED_BASE if self.kind == "full" else "scripted"


def _got(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as reply:
        return json.load(reply)


@pytest.fixture(scope="module", params=["adapters", "full"])
def server(request: pytest.FixtureRequest) -> Iterator[_Server]:
    """Serve; stopped at the end."""
    server = _Server(request.param)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def mia(server: _Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mia]:
    """Give the command on a stack that is up and may train, with a version in its registry."""
    home = new_home()
    mia = Mia(
        home,
        MIA_EMBEDDED__WORKERS="true",
        MIA_TRAINING__ENABLED="true",
        MIA_TRAINING__FOLDER=str(home / "nobody-trains-here"),
        MIA_MODELS__DEFAULT__BASE_URL=server.base_url.replace("127.0.0.1", "localhost"),
        MIA_MODELS__DEFAULT__MODEL="scripted",
        **(_full_weights(server, tmp_path_factory.mktemp("base")) if server.kind == "full" else {}),
    )
    try:
        mia.up()
        assert 0 == mia("run", "create", _RUN).returncode
        asyncio.run(_register(mia, _checkpoint() if server.kind == "full" else random_adapter(1)))
        yield mia
    finally:
        stopped = mia("down")
        shutil.rmtree(home, ignore_errors=True)
    assert stopped.returncode == 0, stopped.stderr


def _full_weights(server: _Server, base: Path) -> dict[str, str]:
    """Settings of a planner with a server of its own; the other roles' are at another address."""
    for name, content in unpack(_checkpoint()).items():
        (base / name).write_bytes(content)
    return {
        "MIA_SERVING__WEIGHTS": "full",
        "MIA_SERVING__TURN_S": "1",
        "MIA_SERVING__REPLICAS": json.dumps([server.base_url]),
        "MIA_TRAINING__MODEL": str(base),
        "MIA_MODELS__PLANNER__BASE_URL": server.base_url,
        "MIA_MODELS__PLANNER__MODEL": "scripted",
    }


def _checkpoint() -> bytes:
    return pack({"config.json": b"{}", "model.safetensors": b""})


async def _register(mia: Mia, version: bytes) -> None:
    pool = await open_pool(connections(mia.settings()).dsn("mia_worker"), size=1)
    try:
        store = PostgresArtifacts(pool, mia.home.root / "artifacts")
        sha = await store.put(version)
        await pool.execute(_REGISTER, _RUN, bytes.fromhex(sha), uuid.uuid4())
    finally:
        await pool.close()


async def _rows(mia: Mia, query: str, *arguments: Any) -> list[Any]:
    connection = await asyncpg.connect(connections(mia.settings()).dsn("mia_audit"))
    try:
        return await connection.fetch(query, *arguments)
    finally:
        await connection.close()


def _ask(mia: Mia, folder: Path, question: str) -> list[tuple[str, str]]:
    """Ask; which model answered the planner's calls, and what the answer says of it."""
    (began,) = asyncio.run(_rows(mia, "SELECT now() AS at"))
    path = folder / "question.txt"
    path.write_text(question + "\n")
    assert 0 == mia("publish", str(path), "--run", _RUN).returncode
    _until(lambda: bool(asyncio.run(_rows(mia, _ANSWERED_BY, _RUN, began["at"]))))
    rows = asyncio.run(_rows(mia, _ANSWERED_BY, _RUN, began["at"]))
    return [(row["policy"], row["told"]) for row in rows]


def _until(condition: Callable[[], bool]) -> None:
    """Wait until it holds; a server that does not answer just then is asked again."""
    end = time.monotonic() + _PATIENCE_S
    while not _holds(condition):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.2)


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except OSError:  # a timeout is one too
        return False


def test_a_promoted_version_answers_until_it_is_taken_back(
    mia: Mia, server: _Server, tmp_path: Path
) -> None:
    """Its weights are loaded while the stack runs, and go when nobody may ask for them."""
    assert "policies" in mia.pids()
    assert [(server.base, "base")] == _ask(mia, tmp_path, "Which river is the longest?")
    assert [] == server.versions()
    promoted = mia("policy", "promote", _RUN, "1")
    assert 0 == promoted.returncode, promoted.stderr
    ((answered_by, told),) = _ask(mia, tmp_path, "Which river is the second longest?")
    assert "planner@v1" == told
    _until(lambda: [answered_by] == server.versions())
    assert answered_by.startswith("planner@v1-")
    taken = mia("policy", "rollback", _RUN)
    assert 0 == taken.returncode, taken.stderr
    assert [(server.base, "base")] == _ask(mia, tmp_path, "Which river is the third longest?")
    _until(lambda: not server.versions())


def test_a_server_that_was_started_again_has_its_versions_back(
    mia: Mia, server: _Server, tmp_path: Path
) -> None:
    """A question that comes meanwhile waits and is answered by the version it is pinned to."""
    mia("policy", "promote", _RUN, "1")
    _until(lambda: len(server.versions()) == 1)
    server.stop()
    server.start()
    ((answered_by, told),) = _ask(mia, tmp_path, "Which river is the shortest?")
    assert "planner@v1" == told
    _until(lambda: [answered_by] == server.versions())
    mia("policy", "rollback", _RUN)
