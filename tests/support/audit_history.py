"""A small run written down by hand, as an auditor reads it, and ways to damage it.

Batch 0 (one question, G = 2) has ended and was learned from; batch 1's question is being carried
out on generation 1, its first plan written with the memory of batch 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import msgspec

from mia_events import ids
from mia_events.chain import GENESIS, chain_hash
from mia_events.lifecycle import TABLES, Kind
from schemas import events as ev
from schemas.envelope import encode_payload
from schemas.events import Event, event_type
from storage.postgres.audit import (
    ActiveRow,
    BatchRow,
    CreditRow,
    EffectRow,
    EventRow,
    GoldRow,
    History,
    LabelRow,
    LetterRow,
    MemoryRow,
    QuestionRow,
    RolloutRow,
    RunRow,
    WriteRow,
)

__all__ = [
    "LETTER", "MEMORY", "QUESTIONS", "RUN", "START", "change", "drop_event", "edit", "edit_event",
    "event", "payload", "rechained", "rollout", "whole_run",
]  # fmt: skip

START = datetime(2026, 1, 1, tzinfo=UTC)
RUN = UUID("00000000-0000-4000-8000-000000000001")
QUESTIONS = tuple(ids.question_id(RUN, "s", str(row)) for row in range(2))
MEMORY = ids.memory_id(f"run:{RUN}", "key")
LETTER = UUID("00000000-0000-4000-8000-00000000000d")
LABEL = UUID("00000000-0000-4000-8000-00000000000e")
LEARNER = ids.learner_id(RUN)
BATCHES = tuple(ids.batch_id(RUN, number) for number in range(2))


def rollout(question: int, number: int) -> UUID:
    """A rollout's stream."""
    return ids.rollout_id(QUESTIONS[question], number)


class _Script:
    """Appends events with the ids, causes, claims and hashes that they must have."""

    def __init__(self) -> None:
        self.streams: dict[UUID, list[EventRow]] = {}
        self.status: dict[UUID, str] = {}
        self._claims = itertools.count(1)
        self._seconds = itertools.count(1)

    def own(self, stream: UUID, kind: Kind, payload: Event) -> UUID:
        """A step of the stream; what it handled."""
        cause = self.streams[stream][-1].id
        self.put(stream, kind, payload, cause=cause, claim=next(self._claims))
        return cause

    def order(self, stream: UUID, payload: Event, cause: UUID) -> None:
        """An event that the question's step ordered."""
        name = ids.order_id(stream, cause, event_type(payload))
        self.put(stream, Kind.ROLLOUT, payload, id_=name, cause=cause)

    def put(
        self,
        stream: UUID,
        kind: Kind,
        payload: Event,
        *,
        id_: UUID | None = None,
        cause: UUID | None = None,
        claim: int | None = None,
    ) -> None:
        """Any event."""
        rows = self.streams.setdefault(stream, [])
        rule = (
            TABLES[kind][self.status.get(stream), event_type(payload)] if kind in TABLES else None
        )
        topic = rule.topic if rule is not None else None
        seq, at, body = (
            len(rows) + 1,
            START + timedelta(seconds=next(self._seconds)),
            encode_payload(payload),
        )
        row = EventRow(
            run_no=1,
            stream=stream,
            seq=seq,
            id=id_ or ids.event_id(stream, seq),
            kind=kind,
            type=event_type(payload),
            topic="mia.dead-letter" if isinstance(payload, ev.DeadLetter) else topic,
            at=at,
            cause=cause,
            correlation=_correlation(stream, kind),
            claim=claim,
            attempt=1 if claim is not None else None,
            body_sha=sha256(body).digest(),
            hash=b"",
            body=body,
        )
        rows.append(row)
        if rule is not None:
            self.status[stream] = rule.status


def _correlation(stream: UUID, kind: Kind) -> UUID | None:
    if kind is Kind.QUESTION:
        return stream
    numbers = itertools.product(range(2), range(2))
    owners = {rollout(q, n): QUESTIONS[q] for q, n in numbers}
    return owners.get(stream)


def _open(script: _Script, number: int, generation: int) -> None:
    """A question is asked and opened; its two rollouts plan; the first is chosen."""
    question, batch = QUESTIONS[number], BATCHES[number]
    asked = ev.QuestionAsked(text=f"question {number}?", source="s", row=str(number))
    script.put(
        batch, Kind.BATCH, ev.BatchStarted(number=number), id_=ids.named_id(batch, "started")
    )
    script.put(question, Kind.QUESTION, asked)
    closed = ev.BatchClosed(number=number, size=1, reason="full")
    script.put(batch, Kind.BATCH, closed, id_=ids.named_id(batch, "closed"))
    pinned = ev.BatchOpened(number=number, generation=generation)
    script.put(batch, Kind.BATCH, pinned, id_=ids.named_id(batch, "opened"))
    opened = ev.QuestionOpened(position=number, batch=number, generation=generation)
    script.put(question, Kind.QUESTION, opened, id_=ids.join_id(question, "opened"))
    cause = script.own(question, Kind.QUESTION, ev.QuestionFannedOut(rollouts=2))
    for one in range(2):
        script.order(
            rollout(number, one), ev.RolloutOpened(number=one, generation=generation), cause
        )
    for one in range(2):
        script.own(rollout(number, one), Kind.ROLLOUT, ev.RolloutPlanned(plan="p"))
    script.put(question, Kind.QUESTION, ev.QuestionPlanned(), id_=ids.join_id(question, "planned"))
    cause = script.own(question, Kind.QUESTION, ev.QuestionRouted(order=(0, 1)))
    script.order(rollout(number, 0), ev.RolloutChosen(role="candidate"), cause)


def _end(script: _Script) -> None:
    """Question 0 is answered, judged, consolidated, and its batch learned from."""
    question, (first, second) = QUESTIONS[0], (rollout(0, 0), rollout(0, 1))
    script.own(first, Kind.ROLLOUT, ev.TurnAnswered(turn=1, text="t", answer="a"))
    script.own(first, Kind.ROLLOUT, ev.RolloutProposed(answer="a"))
    settling = ids.join_id(question, "settling:0")
    script.put(question, Kind.QUESTION, ev.QuestionSettling(candidate=0), id_=settling)
    cause = script.own(question, Kind.QUESTION, ev.QuestionAnswered(answer="a", rollout=0))
    script.order(first, ev.RolloutSubmitted(), cause)
    script.order(second, ev.RolloutChosen(role="sibling"), cause)
    script.own(second, Kind.ROLLOUT, ev.RolloutFailed(reason="no_answer"))
    script.own(first, Kind.ROLLOUT, ev.RolloutJudged(grade="correct", judge="j"))
    script.put(question, Kind.QUESTION, ev.QuestionGraded(), id_=ids.join_id(question, "graded"))
    left = ev.MemoryCandidate(
        dedupe_key="key", text="do this", question="q", outcome="success", rollout=0
    )
    consolidated = ev.QuestionConsolidated(
        grade="correct", memories=(left,), uses=(ev.MemoryUse(memory=MEMORY, won=True),)
    )
    script.own(question, Kind.QUESTION, consolidated)
    batch = BATCHES[0]
    script.put(batch, Kind.BATCH, ev.BatchEnded(number=0), id_=ids.named_id(batch, "ended"))
    ready = ids.named_id(LEARNER, "batch_ready:0")
    script.put(LEARNER, Kind.LEARNER, ev.LearnerBatchReady(number=0), id_=ready)
    sealed = ev.LearnerSealed(number=0, generation=1, training="none_configured")
    script.own(LEARNER, Kind.LEARNER, sealed)


def whole_run() -> History:
    """The run, with nothing wrong."""
    script = _Script()
    script.put(RUN, Kind.RUN, ev.RunCreated(name="r", manifest_sha256="0"))
    script.put(LEARNER, Kind.LEARNER, ev.LearnerStarted())
    _open(script, 0, generation=0)
    _end(script)
    _open(script, 1, generation=1)
    letter = ev.DeadLetter(error_class="poison", message="m", origin="o", sha256="00" * 32)
    script.put(LETTER, Kind.FACT, letter, cause=script.streams[QUESTIONS[0]][1].id)
    label = ev.LabelReceived(question=QUESTIONS[0], commitment="11" * 32)
    script.put(LABEL, Kind.FACT, label)
    return rechained(History(events=_events(script), active=_active(script), **_rows(script)))


def _events(script: _Script) -> tuple[EventRow, ...]:
    return tuple(row for stream in sorted(script.streams) for row in script.streams[stream])


def _active(script: _Script) -> tuple[ActiveRow, ...]:
    return tuple(
        ActiveRow(
            stream=stream,
            kind=rows[-1].kind,
            status=script.status[stream],
            version=len(rows),
            head=b"",
            pending=rows[-1].id,
            topic=rows[-1].topic,
            parent=rows[-1].correlation,
            claim=None,
        )
        for stream, rows in script.streams.items()
        if rows[-1].kind in (Kind.ROLLOUT, Kind.QUESTION, Kind.LEARNER)
        and script.status[stream] != "ended"
    )


def _rows(script: _Script) -> dict[str, Any]:
    new = msgspec.structs.replace
    first = QuestionRow(
        id=QUESTIONS[0], pos=0, batch=0, source="s", row="0", pass_no=0, status="answered", g=2,
        planned=2, ended=2, candidate=0, official=0, answer="a", reason=None, grade="correct",
        closed=True, head=b"",
    )  # fmt: skip
    second = new(
        first, id=QUESTIONS[1], pos=1, batch=1, row="1", status="open", ended=0, official=None,
        answer=None, grade=None, closed=False,
    )  # fmt: skip
    judged = script.streams[rollout(0, 0)][-2]  # the event whose handling used the label
    planning = script.streams[rollout(1, 0)][0]
    recalled = (
        b'{"items":[{"id":"%s","version":1,"text":"do this","question":"q","outcome":"success",'
        b'"score":1.0}]}' % str(MEMORY).encode()
    )
    return {
        "run": RunRow(
            run_no=1, id=RUN, name="r", scope=f"run:{RUN}", mode="batch", state="running",
            rollouts=2, batch_size=1, lag=0, version=1, head=b"", sealed_gen=1, accepted=2,
            opened=2, ended=1,
        ),
        "questions": (first, second),
        "rollouts": (
            _rollout_row(0, 0, 3, "correct"),
            _rollout_row(0, 1, 3, "no_answer"),
            _rollout_row(1, 0, 1, None),
            _rollout_row(1, 1, 1, None),
        ),
        "batches": (
            BatchRow(
                id=BATCHES[0], number=0, status="ended", size=1, ended=1, generation=0,
                policy="base", version=4, head=b"",
            ),
            BatchRow(
                id=BATCHES[1], number=1, status="running", size=1, ended=0, generation=1,
                policy="base", version=3, head=b"",
            ),
        ),
        "effects": (
            _effect_row(planning, 0, "embed"),
            _effect_row(planning, 1, "recall", recalled),
            _effect_row(judged, 0, "label", sealed=True),
            _effect_row(judged, 1, "call", sealed=True),
        ),
        "letters": (LetterRow(id=LETTER, message="m", sha256=b"\x00" * 32),),
        "labels": (LabelRow(id=LABEL, question=QUESTIONS[0], commitment=b"\x11" * 32),),
        "gold": (GoldRow(question=QUESTIONS[0], value="do this"),),
        "memories": (
            MemoryRow(
                id=MEMORY, version=1, dedupe_key="key", outcome="success", text="do this",
                question="q", causes=(QUESTIONS[0], script.streams[LEARNER][-1].id), from_gen=1,
                until_gen=None,
            ),
        ),
        "writes": (
            WriteRow(
                number=1, generation=1, run_no=1, event_id=script.streams[LEARNER][-1].id,
                cap=100_000, stream=LEARNER,
            ),
        ),
        "credits": (CreditRow(memory=MEMORY, question=QUESTIONS[0], gen=1, won=True),),
    }  # fmt: skip


def _rollout_row(question: int, number: int, phase: int, outcome: str | None) -> RolloutRow:
    return RolloutRow(
        id=rollout(question, number),
        question=QUESTIONS[question],
        number=number,
        phase=phase,
        outcome=outcome,
    )


def _effect_row(
    event_: EventRow, ordinal: int, kind: str, result: bytes | None = None, *, sealed: bool = False
) -> EffectRow:
    return EffectRow(event_id=event_.id, ordinal=ordinal, kind=kind, sealed=sealed, result=result)


# --- damage ------------------------------------------------------------------------------------


def rechained(history: History) -> History:
    """Every digest, hash and head computed again: only what a change means can be found."""
    heads: dict[UUID, bytes] = {}
    firsts: dict[UUID, bytes] = {}
    rows = []
    for row in history.events:
        sha = sha256(row.body).digest() if row.body is not None else row.body_sha
        hash_ = chain_hash(
            heads.get(row.stream, GENESIS), stream=row.stream, seq=row.seq, event_id=row.id,
            cause=row.cause, at=row.at, body_sha256=sha, type_=row.type,
        )  # fmt: skip
        heads[row.stream] = hash_
        firsts.setdefault(row.stream, hash_)
        rows.append(msgspec.structs.replace(row, body_sha=sha, hash=hash_))
    new = msgspec.structs.replace
    return new(
        history,
        events=tuple(rows),
        active=tuple(new(a, head=heads.get(a.stream, b"")) for a in history.active),
        questions=tuple(new(q, head=firsts.get(q.id, b"")) for q in history.questions),
        batches=tuple(new(b, head=heads.get(b.id, b"")) for b in history.batches),
        run=new(history.run, head=heads.get(history.run.id, b"")),
    )


def change(history: History, **columns: Any) -> History:
    """Other columns of the run."""
    return msgspec.structs.replace(history, run=msgspec.structs.replace(history.run, **columns))


def edit(history: History, table: str, place: int, **columns: Any) -> History:
    """Other columns of one row."""
    rows = list(getattr(history, table))
    rows[place] = msgspec.structs.replace(rows[place], **columns)
    return msgspec.structs.replace(history, **{table: tuple(rows)})


def event(history: History, stream: UUID, seq: int) -> EventRow:
    """One event."""
    return next(row for row in history.events if (row.stream, row.seq) == (stream, seq))


def edit_event(
    history: History, stream: UUID, seq: int, edit_row: Callable[[EventRow], EventRow]
) -> History:
    """One event changed, its chain left as it was."""
    return msgspec.structs.replace(
        history,
        events=tuple(
            edit_row(row) if (row.stream, row.seq) == (stream, seq) else row
            for row in history.events
        ),
    )


def payload(history: History, stream: UUID, seq: int, new: Event) -> History:
    """One event's payload replaced, the chain computed again."""
    body = encode_payload(new)
    return rechained(
        edit_event(history, stream, seq, lambda row: msgspec.structs.replace(row, body=body))
    )


def drop_event(history: History, stream: UUID, seq: int) -> History:
    """One event gone."""
    return msgspec.structs.replace(
        history,
        events=tuple(row for row in history.events if (row.stream, row.seq) != (stream, seq)),
    )
