"""From `mia up` to the audit by the command line alone, on a real Kafka and Postgres.

The model is scripted; everything else is what a user has.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ops.embedded import identity
from ops.embedded.state import free_port
from tests.integration.test_embedded_lifecycle import Mia
from tests.support.scripted_model import spawn
from tests.support.stack import new_home

_DATA = Path(__file__).parents[3] / "shared" / "data" / "hotpotqa_100.json"


@pytest.fixture(scope="module")
def mia() -> Iterator[Mia]:
    """Give the command on a stack that is up, with workers and a scripted model."""
    home, port = new_home(), free_port(set())
    with spawn(port, "--model", "scripted") as base_url:
        mia = Mia(
            home,
            MIA_EMBEDDED__WORKERS="true",
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


def _run(mia: Mia, *arguments: str) -> str:
    done = mia(*arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def _state(mia: Mia, run: str) -> dict[str, Any]:
    return {line["name"]: line for line in _lines(_run(mia, "run", "list"))}[run]


def _until(mia: Mia, run: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    end = time.monotonic() + 120
    while not reached(state := _state(mia, run)):
        assert time.monotonic() < end, state
        time.sleep(0.5)
    return state


def _hotpot(folder: Path, count: int, *bad: Any) -> Path:
    rows = [
        {
            "_id": f"q{n}",
            "question": f"Which river flows through town number {n}?",
            "answer": f"River {n}",
            "context": [[f"Town {n}", [f"River {n} flows through town number {n}."]]],
        }
        for n in range(count)
    ]
    path = folder / "hotpot.json"
    path.write_text(json.dumps([*rows, *bad]))
    return path


def test_up_makes_the_default_run_and_keeps_workers(mia: Mia) -> None:
    """After `mia up` a question needs nothing but to be asked."""
    children = {child["name"]: child["state"] for child in mia.status()["children"]}
    assert {"kafka", "postgres", "workers", "judge", "admit"} == set(children)
    assert {"ready"} == set(children.values())
    assert "live" == _state(mia, "default")["mode"]


def test_published_questions_are_answered_once(mia: Mia, tmp_path: Path) -> None:
    """The same file twice is the same questions; what carries its answer is skipped, unseen."""
    path = tmp_path / "questions.txt"
    path.write_text('Who built the bridge?\n{"question": "Which is older?", "id": "q2"}\n')
    _run(mia, "publish", str(path))
    _run(mia, "publish", str(path))
    _until(mia, "default", lambda run: run["ended"] == 2)
    told = _lines(_run(mia, "answers"))
    ends = [one for one in told if one["type"] in {"question.answered", "question.failed"}]
    assert 2 == len({one["question"] for one in ends}) == len(ends)
    path.write_text('{"question": "q", "answer": "a secret"}\n')
    refused = mia("publish", str(path))
    assert 1 == refused.returncode
    assert "carries its answer" in refused.stderr
    assert "a secret" not in refused.stderr + refused.stdout


def test_a_benchmark_is_ingested_once_and_learned_from(mia: Mia, tmp_path: Path) -> None:
    """Broken off and repeated it is the same questions; batches leave memories."""
    path = _hotpot(tmp_path, 6, {"question": "no answer"})
    _run(mia, "run", "create", "bench", "--mode", "batch", "--rollouts", "2", "--batch-size", "3")
    assert {"sent": 4, "bad": 1, "total": 4} == _lines(
        _run(mia, "ingest", str(path), "--run", "bench", "--limit", "4")
    )[-1]
    again = mia("ingest", str(path), "--run", "bench")
    assert {"sent": 6, "bad": 1, "total": 6} == _lines(again.stdout)[-1]
    assert "row 7 was skipped" in again.stderr
    _until(mia, "bench", lambda run: run["accepted"] == 6)
    _run(mia, "run", "close", "bench")
    state = _until(mia, "bench", lambda run: run["state"] == "ended")
    assert (6, 6, 2) == (state["accepted"], state["ended"], state["sealed_gen"])
    judged = [
        one["grade"]
        for one in _lines(_run(mia, "answers", "--run", "bench"))
        if one["type"] == "rollout.judged"
    ]
    assert {"correct", "incorrect", "not_attempted"} & set(judged)
    memories = _lines(_run(mia, "memory", "list", "--run", "bench"))
    assert memories
    found = _lines(_run(mia, "memory", "search", memories[0]["question"], "--run", "bench"))
    assert memories[0]["id"] in {one["id"] for one in found}
    audited = mia("audit", "bench", "--json")
    assert 0 == audited.returncode, audited.stdout


def test_a_paused_run_stands_still_until_it_is_resumed(mia: Mia, tmp_path: Path) -> None:
    """Questions are still accepted, and none is opened before the run goes on."""
    _run(mia, "run", "create", "still")
    assert "run still is paused\n" == _run(mia, "run", "pause", "still")
    _run(mia, "ingest", str(_hotpot(tmp_path, 2)), "--run", "still")
    state = _until(mia, "still", lambda run: run["accepted"] == 2)
    assert (0, "paused") == (state["opened"], state["state"])
    assert "run still is running\n" == _run(mia, "run", "resume", "still")
    _until(mia, "still", lambda run: run["ended"] == 2)


def test_cancelled_questions_and_runs_end(mia: Mia, tmp_path: Path) -> None:
    """A waiting question can be cancelled alone; a run takes all its questions with it."""
    _run(mia, "run", "create", "given-up", "--mode", "batch", "--batch-size", "2")
    _run(mia, "run", "pause", "given-up")
    _run(mia, "ingest", str(_hotpot(tmp_path, 3)), "--run", "given-up")
    _until(mia, "given-up", lambda run: run["accepted"] == 3)
    shown = json.loads(_run(mia, "run", "show", "given-up"))
    assert {"waiting": 3} == shown["questions"]
    assert "3 open questions ended" in _run(mia, "run", "cancel", "given-up")
    told = _lines(_run(mia, "answers", "--run", "given-up"))
    assert ["cancelled"] * 3 == [o["reason"] for o in told if o["type"] == "question.failed"]
    state = _state(mia, "given-up")
    assert ("ended", 3) == (state["state"], state["ended"])
    assert 0 == mia("audit", "given-up", "--json").returncode
    refused = mia("run", "cancel", "given-up")
    assert 1 == refused.returncode
    assert "it can take nothing" in refused.stderr


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("run", "show", "nowhere"), "mia run create nowhere"),
        (("run", "create", "default"), "there is a run named"),
        (("run", "resume", "default"), "cannot take run.resumed"),
        (("ingest", "/nowhere.json"), "cannot read"),
        (("publish", "/nowhere.txt"), "cannot read"),
        (("question", "cancel", "00000000-0000-4000-8000-000000000000"), "no question"),
        (("worker", "dance"), "no stage 'dance'"),
    ],
)
def test_a_mistake_is_refused_in_words(mia: Mia, arguments: tuple[str, ...], said: str) -> None:
    """What is wrong and what to do: never a traceback."""
    done = mia(*arguments)
    assert 1 == done.returncode
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_worker_changes_nothing(mia: Mia, tmp_path: Path) -> None:
    """Killed in the middle, it is started again, and every question ends exactly once."""
    _run(mia, "run", "create", "killed", "--rollouts", "2")
    _run(mia, "ingest", str(_hotpot(tmp_path, 12)), "--run", "killed")
    before = mia.pids()["workers"]
    os.kill(before, signal.SIGKILL)
    _until(mia, "killed", lambda run: run["ended"] == 12)
    _run(mia, "run", "close", "killed")
    _until(mia, "killed", lambda run: run["state"] == "ended")
    assert mia.pids()["workers"] not in {before, 0}
    assert 0 == mia("audit", "killed", "--json").returncode


def test_answers_are_followed_as_they_come(mia: Mia, tmp_path: Path) -> None:
    """`--follow` prints what was there and goes on until it is stopped."""
    _run(mia, "run", "create", "followed")
    following = subprocess.Popen(
        mia.command("answers", "--run", "followed", "--follow"),
        env=mia.environ,
        stdout=subprocess.PIPE,
    )
    try:
        _run(mia, "ingest", str(_hotpot(tmp_path, 1)), "--run", "followed")
        assert following.stdout is not None
        first = json.loads(following.stdout.readline())
        assert first["type"] in {"question.answered", "question.failed", "rollout.judged"}
    finally:
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=30)
    assert 130 == following.returncode


def test_a_worker_may_be_added_by_hand(mia: Mia) -> None:
    """In the foreground, for some stages, until SIGTERM: it drains and ends well."""
    worker = subprocess.Popen(
        mia.command("worker", "plan", "execute"),
        env={**mia.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert worker.stdout is not None
    lines = [worker.stdout.readline()]
    while "working" not in lines[-1]:
        assert lines[-1], lines
        lines.append(worker.stdout.readline())
    assert "['plan', 'execute']" in lines[-1]
    worker.terminate()
    rest, _ = worker.communicate(timeout=60)
    assert (0, True) == (worker.returncode, "draining" in rest), rest


def test_workers_end_when_all_that_they_work_with_is_killed(mia: Mia) -> None:
    """Nobody is left to say goodbye to: they drain, give up and go, and the next `up` works."""
    pids = mia.pids()
    for name in ("supervisor", "kafka", "postgres"):
        os.kill(pids[name], signal.SIGKILL)
    workers = [pids[name] for name in ("workers", "judge", "admit")]
    end = time.monotonic() + 60
    while any(identity.identify(pid) for pid in workers):
        assert time.monotonic() < end, [pid for pid in workers if identity.identify(pid)]
        time.sleep(0.5)
    mia.up()
    assert "up" == mia.status()["phase"]


def test_the_demo_tells_its_story(mia: Mia) -> None:
    """On a stack that is up the demo uses it: ten questions, every one ended once, audited."""
    done = mia("demo", "--rollouts", "1")
    assert "10 of 10 questions ended exactly once" in done.stdout, done.stderr
    assert 0 == done.returncode, done.stdout
    assert "audit: clean" in done.stdout
    for what in ("question", "plan", "search", "found", "ANSWER", "judged", "memory", "learned"):
        assert f" {what} " in done.stdout
    assert "up" == mia.status()["phase"]


@pytest.mark.skipif(not _DATA.exists(), reason="the benchmark's file is not on this machine")
def test_the_demo_takes_a_benchmarks_questions(mia: Mia) -> None:
    """The first questions of HotpotQA's own file go the same way."""
    done = mia("demo", str(_DATA), "--limit", "3", "--rollouts", "1")
    assert "3 of 3 questions ended exactly once" in done.stdout, done.stderr
    assert 0 == done.returncode, done.stdout


def test_memories_come_from_a_file_and_leave_as_one(mia: Mia, tmp_path: Path) -> None:
    """What has no vector is embedded, a bad entry is skipped, the same file changes nothing."""
    entry: dict[str, Any] = {
        "workflow_summary": "1. Search.",
        "judgement": "correct",
        "usage_count": 3,
    }
    entries = [
        {**entry, "question": "Which river is longer, the Rhine or the Elbe?", "success_count": 2},
        {**entry, "question": "Who wrote Ulysses?", "judgement": "maybe"},
        {**entry, "question": "Who wrote Ulysses?", "judgement": "incorrect"},
    ]
    path = tmp_path / "memory.jsonl"
    path.write_text(json.dumps({"text-only": {"others": entries}}))
    _run(mia, "run", "create", "filled")
    first = mia("memory", "import", str(path), "--run", "filled")
    assert 0 == first.returncode, first.stderr
    assert "entry 2: judgement must be one of" in first.stderr
    (told,) = _lines(first.stdout)
    assert (2, 2, 0) == (told["good"], told["written"], told["known"])
    (told,) = _lines(_run(mia, "memory", "import", str(path), "--run", "filled"))
    assert (0, 2) == (told["written"], told["known"])
    (stats,) = _lines(_run(mia, "memory", "stats", "--run", "filled"))
    assert (2, 2, 1) == (stats["in_use"], stats["imported"], stats["generation"])
    question = str(entries[0]["question"])
    found = _lines(_run(mia, "memory", "search", question, "--run", "filled", "--limit", "1"))
    assert question == found[0]["question"]
    story = json.loads(_run(mia, "memory", "show", found[0]["id"]))
    assert (2, 1) == (story["versions"][0]["brought_uses"], story["versions"][0]["brought_wins"])
    exported = json.loads(_run(mia, "memory", "export", "--run", "filled"))
    back = {one["question"]: one for one in exported["text-only"]["others"]}
    assert (3, 2) == (back[question]["usage_count"], back[question]["success_count"])
    nothing = mia("memory", "import", str(tmp_path / "none.jsonl"), "--run", "filled")
    assert 1 == nothing.returncode
    assert "cannot be imported" in nothing.stderr
    audited = mia("audit", "filled", "--json")
    assert 0 == audited.returncode, audited.stdout
