"""What people and programs use, over a real Kafka and Postgres: ask, label, report, events, HTTP.

The model is scripted and slow enough for a queue to form; workers have few slots.
"""

import asyncio
import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ops.connect import connections
from ops.embedded.state import free_port
from tests.integration.test_embedded_lifecycle import Mia
from tests.support.scripted_model import spawn
from tests.support.stack import new_home

_SLOW = ("--latency", "fixed", "--latency-s", "0.2", "--malformed-rate", "0")
_SECRET = "the sealed river 7f3a"
_PATIENCE_S = 90.0
_ADMISSION_S = 5.0  # for so long the interface waits for admission, then it answers 202
_BULK = 200
_ACCEPTED = """
SELECT count(*) FROM question AS q JOIN run AS r ON r.run_no = q.run_no
WHERE r.name = 'default' AND NOT q.urgent
"""
#: Of the others, once this question was asked: how many were open, how many commands of theirs
#: were carried out before its own first one, and how many of them ended before it did.
_PASSED = """
WITH mine AS (
    SELECT q.id, q.run_no, q.ended_at, a.at AS asked_at, f.at AS begun_at
    FROM question AS q
    JOIN event AS a ON a.run_no = q.run_no AND a.stream = q.id AND a.type = 'question.asked'
    JOIN event AS f ON f.run_no = q.run_no AND f.stream = q.id AND f.type = 'question.fanned_out'
    WHERE q.id = $1
), others AS (
    SELECT q.id, q.ended_at FROM question AS q JOIN mine AS m ON m.run_no = q.run_no
    WHERE NOT q.urgent AND q.accepted_at < m.asked_at
      AND (q.ended_at IS NULL OR q.ended_at > m.asked_at)
)
SELECT (SELECT count(*) FROM others) AS waiting,
       (SELECT count(DISTINCT e.claim) FROM mine AS m
        JOIN event AS e ON e.run_no = m.run_no AND e.at > m.asked_at AND e.at < m.begun_at
        WHERE e.correlation IN (SELECT o.id FROM others AS o)) AS went_before,
       (SELECT count(*) FROM others AS o JOIN mine AS m ON o.ended_at < m.ended_at) AS ended_before
"""


@pytest.fixture(scope="module")
def mia() -> Iterator[Mia]:
    """Give the command on a stack that is up, with the HTTP interface."""
    home, port = new_home(), free_port(set())
    with spawn(port, "--model", "scripted", *_SLOW) as base_url:
        mia = Mia(
            home,
            MIA_EMBEDDED__WORKERS="true",
            MIA_API__ENABLED="true",
            MIA_WORKER__SLOTS="8",
            MIA_MODELS__DEFAULT__BASE_URL=base_url,
            MIA_MODELS__DEFAULT__MODEL="scripted",
        )
        try:
            mia.up()
            yield mia
        finally:
            stopped = mia("down")
            shutil.rmtree(home, ignore_errors=True)
        assert stopped.returncode == 0, stopped.stderr


class Http:
    """The interface as a program sees it."""

    def __init__(self, mia: Mia) -> None:
        (port,) = [c["port"] for c in mia.status()["children"] if c["name"] == "api"]
        self._base = f"http://127.0.0.1:{port}"
        self._token = mia.home.secret("api-token").read_text()

    def open(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        asked = urllib.request.Request(
            self._base + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", **sent},
        )
        return urllib.request.urlopen(asked, timeout=60)

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        try:
            with self.open(method, path, body, **headers) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


@pytest.fixture
def http(mia: Mia) -> Http:
    """Give the interface."""
    return Http(mia)


def _asked(http: Http, text: str, run: str = "default", **headers: str) -> str:
    """Post a question; its id, once the ledger has it. 202 is right only where that took long."""
    began = time.monotonic()
    status, reply = http("POST", "/questions", {"question": text, "run": run}, **headers)
    took = time.monotonic() - began
    assert status == 201 or (status == 202 and took >= _ADMISSION_S), (status, took, reply)
    _until(lambda: http("GET", f"/questions/{reply['id']}")[0] == 200)
    assert text == http("GET", f"/questions/{reply['id']}")[1]["question"]
    return str(reply["id"])


def _run(mia: Mia, *arguments: str, status: int = 0) -> str:
    done = mia(*arguments)
    assert status == done.returncode, done.stderr + done.stdout
    return done.stdout


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def _until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.3)


def _table(folder: Path, count: int) -> Path:
    path = folder / "bench.csv"
    rows = [f'n{n},Which river flows through town number {n}?,"River {n}"' for n in range(count)]
    path.write_text("\n".join(["name,query,gold", *rows]) + "\n")
    return path


_COLUMNS = ("--question-column", "query", "--answer-column", "gold", "--id-column", "name")


def test_ask_shows_every_step_and_ends_with_the_answer(mia: Mia) -> None:
    """Steps of the question and its attempt, in order, then what became of it; the id is kept."""
    name = "a-long-river"  # the script's replies follow from it
    told = _lines(_run(mia, "ask", "Which river is long?", "--id", name))
    types = [one["type"] for one in told]
    assert ("question.asked", "outcome") == (types[0], types[-1])
    wanted = ["rollout.planned", "turn.answered", "question.answered", "rollout.judged"]
    assert wanted == list(dict.fromkeys(one for one in types if one in wanted))
    assert ("answered", True) == (told[-1]["status"], bool(told[-1]["answer"]))
    again = _lines(_run(mia, "ask", "Which river is long?", "--id", name))
    assert [one["id"] for one in told] == [one["id"] for one in again]


def test_ask_has_an_exit_status_for_no_answer_in_time_and_for_none_at_all(mia: Mia) -> None:
    """5: it goes on without us; 4: it ended without an answer; 1: it could not be asked."""
    late = mia("ask", "Which river is longest?", "--timeout", "0", "--id", "late")
    assert (5, True) == (late.returncode, "mia events show" in late.stderr)
    _run(mia, "run", "create", "hopeless", "--question-deadline", "0.01")
    assert 4 == mia("ask", "Which river is hopeless? [[sleep 5]]", "-r", "hopeless").returncode
    _run(mia, "run", "create", "in-batches", "--mode", "batch")
    refused = mia("ask", "Which river is batched?", "--run", "in-batches")
    assert (1, True) == (refused.returncode, "live run" in refused.stderr)


def _row(mia: Mia, query: str, *arguments: Any) -> Any:
    """Return the first row that the auditor's role reads."""

    async def read() -> Any:
        connection = await asyncpg.connect(connections(mia.settings()).dsn("mia_audit"))
        try:
            return await connection.fetchrow(query, *arguments)
        finally:
            await connection.close()

    return asyncio.run(read())


def test_a_question_passes_two_hundred_that_wait(mia: Mia, tmp_path: Path) -> None:
    """All slots are taken and the queue is long: it starts after a few steps, and ends first.

    What counts is its place among the others' steps, in the ledger. In turn it would start behind
    the step that each open question waits for, and end behind nearly all of them.
    """
    _run(mia, "ingest", str(_table(tmp_path, _BULK)), *_COLUMNS)
    _until(lambda: _row(mia, _ACCEPTED)[0] >= _BULK)
    told = _lines(_run(mia, "ask", "Which river is in a hurry?"))
    passed = dict(_row(mia, _PASSED, uuid.UUID(told[0]["question"])))
    assert passed["waiting"] > _BULK / 2, passed
    assert passed["went_before"] < passed["waiting"] / 2, passed
    assert passed["ended_before"] < passed["waiting"] / 10, passed


def test_ctrl_c_stops_watching_and_not_the_question(mia: Mia) -> None:
    """It says how to look again, and looking again finds the answer."""
    asking = subprocess.Popen(
        mia.command("ask", "Which river is left alone?", "--id", "left"),
        env=mia.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert asking.stdout is not None
    question = json.loads(asking.stdout.readline())["question"]
    asking.send_signal(signal.SIGINT)
    _, said = asking.communicate(timeout=30)
    assert (130, True) == (asking.returncode, f"mia events show {question} --follow" in said)
    told = _lines(_run(mia, "events", "show", question, "--follow"))
    assert "question.consolidated" in {one["type"] for one in told}


def test_a_table_is_followed_to_its_end_and_reported(mia: Mia, tmp_path: Path) -> None:
    """Columns by name, an incomplete last batch closed, and figures that add up."""
    path = _table(tmp_path, 5)
    _run(mia, "run", "create", "table", "--mode", "batch", "--batch-size", "3")
    told = _lines(_run(mia, "ingest", str(path), *_COLUMNS, "-r", "table", "-f", "--close"))
    assert {"sent": 5, "bad": 0, "total": 5} == told[0]
    assert (5, 5, 5) == tuple(told[-1][name] for name in ("accepted", "ended", "total"))
    figures = json.loads(_run(mia, "report", "table"))
    assert (5, 5, 0) == tuple(figures["questions"][name] for name in ("accepted", "ended", "open"))
    (judge,) = [one for one in figures["judges"] if one["kind"] == "supervised"]
    assert judge["graded"] + judge["grades"].get("unjudged", 0) == figures["questions"]["answered"]
    assert 5 == figures["scores"]["labelled"]
    stages = {one["stage"]: one for one in figures["tokens"]}
    assert {"plan", "execute", "judge"} <= set(stages)
    assert all(one["prompt_tokens"] > one["calls"] for one in stages.values())
    assert figures["turns"] >= sum(figures["tool_calls"].values())


def test_a_label_is_sealed_and_shown_to_nobody(mia: Mia) -> None:
    """From standard input; the story of its question names it without its value."""
    _run(mia, "ask", "Which river is labelled?", "--id", "labelled")
    command = mia.command("label", "default", "labelled")
    done = subprocess.run(
        command, env=mia.environ, input=f"{_SECRET}\n", capture_output=True, text=True, check=False
    )
    assert (0, True) == (done.returncode, "1 of 1 labels are sealed" in done.stdout), done.stderr
    told = _lines(_run(mia, "ask", "Which river is labelled?", "--id", "labelled"))
    shown = _run(mia, "events", "show", told[0]["question"])
    assert "label.received" in shown
    assert _SECRET not in shown
    corrected = mia("label", "default", "labelled", f"not {_SECRET}")
    assert (0, True) == (corrected.returncode, "1 of 1 labels are sealed" in corrected.stdout)
    assert "after their questions had ended" in corrected.stderr
    shown = _run(mia, "events", "show", told[0]["question"])
    assert 2 == [one["type"] for one in _lines(shown)].count("label.received")
    assert _SECRET not in shown
    unknown = mia("label", "default", "nobody-asked-this", "x")
    assert (1, True) == (unknown.returncode, "has no question" in unknown.stderr)


def test_the_same_key_is_one_question(mia: Mia, http: Http) -> None:
    """Accepted, then 200 with the same id; with another text 409."""
    text, key = "Which river has a key?", uuid.uuid4().hex
    question = _asked(http, text, Idempotency_Key=key)
    status, again = http("POST", "/questions", {"question": text}, Idempotency_Key=key)
    assert (200, question) == (status, again["id"])
    status, refused = http("POST", "/questions", {"question": "Another?"}, Idempotency_Key=key)
    assert (409, "key_reused") == (status, refused["error"]["code"])
    _until(lambda: http("GET", f"/questions/{question}")[1]["ended"])
    status, found = http("GET", f"/questions/{question}")
    assert (200, "answered", True) == (status, found["status"], bool(found["answer"]))
    nobody = uuid.uuid4()
    assert 404 == http("GET", f"/questions/{nobody}")[0]
    assert 404 == http("POST", "/questions", {"question": "q?", "run": "nowhere"})[0]


def test_a_label_by_http_is_sealed(mia: Mia, http: Http) -> None:
    """By our id of the question; it arrives where only judge and auditor read."""
    question = _asked(http, "Which river is told by HTTP?")
    assert 202 == http("POST", "/labels", {"question": question, "label": _SECRET})[0]
    _until(lambda: "label.received" in _run(mia, "events", "show", question))
    assert 404 == http("POST", "/labels", {"question": str(uuid.uuid4()), "label": "x"})[0]


def _judgement(mia: Mia, question: str) -> dict[str, Any]:
    """What the judge said of a question's attempt, or nothing yet."""
    told = _lines(_run(mia, "events", "show", question))
    return next((one["data"] for one in told if one["type"] == "rollout.judged"), {})


def test_an_answer_comes_before_its_label_and_the_label_still_counts(mia: Mia, http: Http) -> None:
    """The question is answered while its attempt waits; sealed, the label is used at once."""
    _run(mia, "run", "create", "patient", "--label-wait", "3600")
    question = _asked(http, "Which river is told of later?", "patient")
    _until(lambda: http("GET", f"/questions/{question}")[1]["status"] == "answered")
    time.sleep(3.0)
    assert {} == _judgement(mia, question)
    assert 202 == http("POST", "/labels", {"question": question, "label": "Elbe"})[0]
    _until(lambda: _judgement(mia, question) != {})
    assert "label" == _judgement(mia, question)["basis"]
    _until(lambda: http("GET", f"/questions/{question}")[1]["ended"])


def test_a_label_that_never_comes_is_waited_for_and_then_done_without(mia: Mia, http: Http) -> None:
    """Reviewers stand in, as the run says."""
    _run(
        mia, "run", "create", "hasty", "--label-wait", "2", "--label-missing", "unsupervised"
    )  # fmt: skip
    question = _asked(http, "Which river is never told?", "hasty")
    _until(lambda: _judgement(mia, question) != {})
    assert "review" == _judgement(mia, question)["basis"]


def _events(http: Http, path: str, most: int = 1_000, **headers: str) -> list[dict[str, str]]:
    """Read up to `most` events of a stream, then hang up."""
    found: list[dict[str, str]] = []
    fields: dict[str, str] = {}
    with http.open("GET", path, **headers) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        for raw in reply:
            line = raw.decode().rstrip("\n")
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif "data" in fields:
                found.append(fields)
                fields = {}
            if len(found) == most:
                break
    return found


def test_a_stream_of_steps_goes_on_where_it_broke_off(http: Http) -> None:
    """Three events, a lost connection, the rest: together what one connection gets."""
    path = f"/questions/{_asked(http, 'Which river is streamed?')}/events"
    first = _events(http, path, 3)
    rest = _events(http, path, Last_Event_ID=first[-1]["id"])
    whole = _events(http, path)
    assert [one["data"] for one in whole] == [one["data"] for one in (*first, *rest)]
    assert ("end", "answered") == (rest[-1]["event"], json.loads(rest[-1]["data"])["status"])
    with http.open("GET", path, Last_Event_ID=rest[-1]["id"]) as reply:
        assert 204 == reply.status


def test_metrics_count_what_the_ledger_has(mia: Mia, http: Http) -> None:
    """Prometheus' text, from the ledger and not from this process: a run's only question."""
    _run(mia, "run", "create", "counted")
    _asked(http, "Which river is counted? [[sleep 20 plan]]", "counted")
    with http.open("GET", "/metrics") as reply:
        text = reply.read().decode()
    (line,) = [x for x in text.splitlines() if x.startswith("mia_questions_in_flight")
               and 'run="counted"' in x]  # fmt: skip
    assert 1.0 == float(line.rpartition(" ")[2])


def test_events_are_tailed_and_shown(mia: Mia) -> None:
    """The newest of a kind; one by its id, with what it asked for."""
    newest = _lines(_run(mia, "events", "tail", "--lines", "3", "--type", "rollout.planned"))
    assert ["rollout.planned"] * 3 == [one["type"] for one in newest]
    (shown,) = _lines(_run(mia, "events", "show", newest[-1]["id"]))
    assert newest[-1]["data"] == shown["data"]
    story = _lines(_run(mia, "events", "show", newest[-1]["question"]))
    kinds = {effect["kind"] for one in story for effect in one["effects"]}
    assert "call" in kinds
    assert 1 == mia("events", "show", str(uuid.uuid4())).returncode


def test_anchors_are_pinned_and_their_labels_are_not_in_the_manifest(
    mia: Mia, tmp_path: Path
) -> None:
    """A run holds questions back by a file; whoever reads the run sees them without answers."""
    file = tmp_path / "held.json"
    context = [["Held", ["It flows through a town that nobody names."]]]
    row = {"_id": "h1", "question": "Which river is held back?", "answer": _SECRET}
    file.write_text(json.dumps([{**row, "context": context}]))
    _run(mia, "run", "create", "held", "--anchors", str(file), "--guard-margin", "0.1")
    shown = _run(mia, "run", "show", "held")
    manifest = json.loads(shown)["manifest"]
    assert ("anchors", 0.1) == (manifest["guard"], manifest["guard_rules"]["margin"])
    assert ["h1"] == [anchor["row"] for anchor in manifest["anchors"]]
    assert _SECRET not in shown
