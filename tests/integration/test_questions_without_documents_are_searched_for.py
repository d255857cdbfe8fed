"""A question that brings no documents is answered through the retrieval service.

Everything is what a user has, from `mia up` on; only the model is scripted.
"""

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ops.connect import connections
from ops.embedded.state import free_port
from tests.integration.test_embedded_lifecycle import Mia
from tests.support.scripted_model import spawn
from tests.support.stack import new_home

_COUNT = 12


@pytest.fixture(scope="module")
def mia() -> Iterator[Mia]:
    """Give the command on a stack that serves passages, words and vectors of them."""
    home, port = new_home(), free_port(set())
    passages = home.with_name(f"{home.name}-passages.jsonl")
    rows = [
        {"id": f"p{n}", "contents": f"Town {n}\nRiver {n} flows through town number {n}."}
        for n in range(_COUNT)
    ]
    passages.write_text("".join(json.dumps(row) + "\n" for row in rows) + "no row\n")
    with spawn(port, "--model", "scripted") as base_url:
        mia = Mia(
            home,
            MIA_EMBEDDED__WORKERS="true",
            MIA_MODELS__DEFAULT__BASE_URL=base_url,
            MIA_MODELS__DEFAULT__MODEL="scripted",
            MIA_RETRIEVAL__PASSAGES=str(passages),
            MIA_RETRIEVAL__DENSE="true",
        )
        try:
            mia.up()
            yield mia
        finally:
            stopped = mia("down")
            shutil.rmtree(home, ignore_errors=True)
            passages.unlink()
        assert stopped.returncode == 0, stopped.stderr


def _run(mia: Mia, *arguments: str) -> str:
    done = mia(*arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def _ask(mia: Mia, folder: Path, run: str) -> None:
    _run(mia, "run", "create", run)
    path = folder / f"{run}.txt"
    path.write_text("".join(f"Which river flows through town number {n}?\n" for n in range(_COUNT)))
    _run(mia, "publish", str(path), "--run", run)


def _until_ended(mia: Mia, run: str) -> None:
    end = time.monotonic() + 120
    while True:
        state = json.loads(_run(mia, "run", "show", run))
        if state["ended"] == _COUNT:
            return
        assert time.monotonic() < end, state
        time.sleep(0.5)


def _returned(mia: Mia, run: str) -> list[dict[str, Any]]:
    """Return what tools returned in a run, from the ledger."""

    async def read() -> list[dict[str, Any]]:
        connection = await asyncpg.connect(connections(mia.settings()).database_dsn)
        try:
            rows = await connection.fetch(
                "SELECT body FROM event JOIN run USING (run_no) "
                "WHERE run.name = $1 AND event.type = 'tool.returned'",
                run,
            )
        finally:
            await connection.close()
        return [json.loads(row["body"]) for row in rows]

    return asyncio.run(read())


def test_searches_find_the_passages_that_are_served(mia: Mia, tmp_path: Path) -> None:
    """Every question ends once, and what was found is named by the passages' ids."""
    children = {child["name"]: child for child in mia.status()["children"]}
    assert "ready" == children["retrieval"]["state"]
    _ask(mia, tmp_path, "searched")
    _until_ended(mia, "searched")
    returned = _returned(mia, "searched")
    assert returned
    assert all(one["ok"] for one in returned), returned
    named = {f"Town {n} (p{n})" for n in range(_COUNT)}
    found = {source for one in returned for source in one["sources"]}
    assert found
    assert found <= named
    assert "flows through town number" in returned[0]["observation"]
    assert 0 == mia("audit", "searched", "--json").returncode


def test_a_service_that_is_killed_delays_searches_and_fails_none(mia: Mia, tmp_path: Path) -> None:
    """It starts again from its index; what was asked meanwhile waits for it."""
    before = mia.pids()["retrieval"]
    os.kill(before, signal.SIGKILL)
    _ask(mia, tmp_path, "killed")
    _until_ended(mia, "killed")
    assert mia.pids()["retrieval"] not in {before, 0}
    returned = _returned(mia, "killed")
    assert returned
    assert all(one["ok"] for one in returned), returned
    assert 0 == mia("audit", "killed", "--json").returncode


def test_the_command_searches_the_same_index(mia: Mia) -> None:
    """As JSON lines in a pipe; building again finds it built, and says what was skipped."""
    (line, *_) = _run(mia, "retrieval", "search", "town number 3", "--top", "1").splitlines()
    hit = json.loads(line)
    assert ("p3", True) == (hit["document"]["id"], hit["score"] > 0)
    built = json.loads(_run(mia, "retrieval", "build"))
    assert (_COUNT, 1, "scripted") == (built["passages"], built["skipped"], built["embedder"])
