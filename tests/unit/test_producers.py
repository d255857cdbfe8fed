"""Producers publish what admission will take, and labels are safe before their questions are."""

import json
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from mia_events import ids, topics
from producers.hotpot import BadRow, read_rows, source_of
from producers.ingest import Ingested, Run, ingest
from producers.publish import BadLine, key_of, read_lines, send
from schemas.external import IncomingQuestion, decode_question

_RUN = Run(
    run_no=3, id=UUID("00000000-0000-4000-8000-0000000000aa"), name="r", positions=True, base=40
)


class Recorder:
    """A label store and an outlet that write down what happens, in order."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []
        self.records: list[bytes] = []
        self.keys: list[bytes | None] = []

    async def seal(self, run_no: int, question: UUID, value: str, *, source: str) -> None:
        self.log.append(("seal", str(question)))

    async def put(self, topic: str, key: bytes | None, value: bytes) -> None:
        self.log.append(("put", topic))
        self.records.append(value)
        self.keys.append(key)

    async def flush(self) -> None:
        self.log.append(("flush", ""))


def _rows(folder: Path, count: int) -> Path:
    path = folder / "rows.json"
    rows = [
        {"_id": f"r{n}", "question": f"question {n}?", "answer": f"gold {n}", "context": []}
        for n in range(count)
    ]
    path.write_text(json.dumps([*rows, {"bad": 1}]))
    return path


async def test_labels_are_sealed_before_their_questions_are_sent(tmp_path: Path) -> None:
    """No question may be answered and judged before its label is there."""
    recorder = Recorder()
    path = _rows(tmp_path, 2)
    await ingest(read_rows(path), source_of(path), _RUN, labels=recorder, outlet=recorder)
    question = ids.question_id(_RUN.id, source_of(path), "r0")
    assert ("seal", str(question)) == recorder.log[0]
    assert ["seal", "seal", "put", "put", "flush"] == [what for what, _ in recorder.log]


async def test_records_carry_identity_and_position_but_no_label(tmp_path: Path) -> None:
    """What is published passes admission's own check, and the same file gives the same records."""
    first, second = Recorder(), Recorder()
    path = _rows(tmp_path, 3)
    for recorder in (first, second):
        await ingest(read_rows(path), source_of(path), _RUN, labels=recorder, outlet=recorder)
    decoded = [decode_question(record) for record in first.records]
    assert [40, 41, 42] == [question.position for question in decoded]
    assert ["r0", "r1", "r2"] == [question.row for question in decoded]
    assert first.records == second.records
    assert not any(b"gold" in record for record in first.records)


async def test_a_live_run_takes_positions_as_they_come(tmp_path: Path) -> None:
    """Without batches a position means nothing, and a given one could only clash."""
    recorder = Recorder()
    path = _rows(tmp_path, 1)
    live = msgspec.structs.replace(_RUN, positions=False)
    await ingest(read_rows(path), source_of(path), live, labels=recorder, outlet=recorder)
    assert decode_question(recorder.records[0]).position is None


async def test_bad_rows_are_told_and_limits_count_valid_rows(tmp_path: Path) -> None:
    """The report has every bad row, and how far the ingest is."""
    bad: list[BadRow] = []
    steps: list[Ingested] = []
    recorder = Recorder()
    path = _rows(tmp_path, 40)
    done = await ingest(
        read_rows(path),
        source_of(path),
        _RUN,
        labels=recorder,
        outlet=recorder,
        limit=35,
        bad=bad.append,
        progress=steps.append,
    )
    assert [41] == [row.number for row in bad]
    assert Ingested(sent=35, bad=1, total=35) == done
    assert [32, 35] == [step.sent for step in steps]


def test_lines_are_plain_questions_or_json() -> None:
    """A run, an id or a source of its own wins over what the command names."""
    lines = [
        b"Plain?",
        b"",
        b'{"question": "In JSON?"}',
        b'{"question": "Named?", "id": "q7", "run": "other"}',
    ]
    found = list(read_lines(lines, "mine", "file@1"))
    assert [
        IncomingQuestion(question="Plain?", run="mine", source="file@1", row="1"),
        IncomingQuestion(question="In JSON?", run="mine", source="file@1", row="3"),
        IncomingQuestion(question="Named?", run="other", id="q7"),
    ] == found


def test_lines_without_a_source_are_new_each_time() -> None:
    """Standard input has no identity, so neither have its lines."""
    (found,) = read_lines([b"Plain?"], "mine")
    assert isinstance(found, IncomingQuestion)
    assert (None, None, None) == (found.id, found.source, key_of(found))


@pytest.mark.parametrize(
    "line, reason",
    [
        (b'{"question": "q", "answer": "secret"}', "carries its answer"),
        (b"{broken", "not JSON"),
        (b'{"question": ""}', "empty"),
        (b"x" * 20_001, "20000"),
    ],
)
def test_a_bad_line_is_named_without_its_label(line: bytes, reason: str) -> None:
    """The number leads to the line, the reason to what is wrong; a label is never repeated."""
    (_, bad) = read_lines([b"Good?", line], "mine")
    assert isinstance(bad, BadLine)
    assert 2 == bad.number
    assert reason in bad.reason
    assert "secret" not in bad.reason


async def test_sending_ends_with_a_flush() -> None:
    """What was counted as published is acknowledged."""
    recorder = Recorder()
    questions = [IncomingQuestion(question="a?", id="1"), IncomingQuestion(question="b?", id="2")]
    assert 2 == await send(recorder, questions)
    assert [("put", topics.QUESTION)] * 2 + [("flush", "")] == recorder.log
    assert [b"1", b"2"] == recorder.keys
