"""What evidence is judged by: counts that cannot flatter, files that say what ran."""

import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from mia_events import topics
from ops.chaos.repeats import _count
from ops.evidence.leaks import in_logs
from ops.evidence.malformed import CANARY, Bad, invented, malformed
from ops.evidence.record import Claim, Evidence, Recorded, machine, path_of, write
from schemas.external import Refused, decode_label, decode_question

_ADDRESSED = [bad for bad in malformed("run", 200) if bad.topic in topics.INBOUND]


def test_evidence_without_a_claim_proves_nothing() -> None:
    """An empty list of claims is not a success."""
    assert not Evidence(figures={}, claims=()).ok


def test_one_broken_claim_breaks_the_evidence() -> None:
    """It is named."""
    evidence = Evidence(figures={}, claims=(Claim("a", holds=True), Claim("b", holds=False)))
    assert ["b"] == evidence.broken
    assert not evidence.ok


def test_a_call_asked_for_again_after_its_record_is_counted() -> None:
    """Once before the record, once long after: that one was without need."""
    calls = _count({"x": [10.0, 99.0], "y": [11.0, 12.0], "z": [13.0]}, {"x": 20.0, "y": 14.0}, 2)
    assert 1 == calls.repeated_after_record
    assert 2 == calls.repeated
    assert 5 == calls.asked
    assert 1 == calls.unrecorded


def test_malformed_records_are_all_different() -> None:
    """Each must become a dead letter of its own."""
    records = list(malformed("run", 2_000))
    assert 2_000 == len({(bad.topic, bad.value) for bad in records})


@pytest.mark.parametrize("bad", _ADDRESSED, ids=lambda bad: bad.kind)
def test_malformed_questions_and_labels_are_malformed(bad: Bad) -> None:
    """What the decoders take is refused for what the ledger says: its run, or its position."""
    said = _refusal(bad)
    assert said or "unknown run" in bad.kind or bad.kind == "position is taken"
    assert CANARY not in said


def _refusal(bad: Bad) -> str:
    try:
        if bad.topic == topics.QUESTION:
            decode_question(bad.value)
        if bad.topic == topics.FEEDBACK:
            decode_label(bad.value)
    except Refused as refused:
        return str(refused)
    return ""


def test_invented_commands_are_well_formed() -> None:
    """They are pointers that any stage reads; the ledger alone can tell."""
    first, second = list(invented(UUID(int=7), 2))
    assert topics.PLAN == first.topic
    assert "question.teleported" == json.loads(second.value)["type"]


def test_lines_with_a_text_are_counted(tmp_path: Path) -> None:
    """Each line once, however often it has the text."""
    log = tmp_path / "worker.log"
    log.write_text(f"a\n{CANARY} {CANARY}\nb {CANARY}\n")
    assert 2 == in_logs([log], CANARY)


def test_a_result_says_where_it_ran(tmp_path: Path) -> None:
    """Machine, commit and command are in the file."""
    result = Recorded(
        item="core-0",
        title="t",
        ok=True,
        claims=(Claim("c", holds=True),),
        figures={"n": 1},
        command="make evidence ITEM=core-0",
        commit="abc",
        machine=machine(),
        started_at=datetime.now(UTC).isoformat(),
        seconds=1.0,
    )
    write(result, tmp_path / "deep" / "core-0.json")
    read = json.loads((tmp_path / "deep" / "core-0.json").read_bytes())
    assert {"says": "c", "holds": True} == read["claims"][0]
    assert read["machine"]["kafka"].startswith("Apache Kafka 4.")
    assert read["machine"]["cores"] >= 1
    assert "evidence" == path_of("core-0").parent.name
