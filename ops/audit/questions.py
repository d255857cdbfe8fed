"""Every accepted question ends exactly once, its rollouts count, its row says what happened."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from mia_events import ids
from mia_events.lifecycle import TABLES, Kind, Phase
from ops.audit.book import Book, Entry, Stream
from ops.audit.findings import Check, Findings
from ops.audit.origins import origin
from schemas import events as ev
from storage.postgres.audit import QuestionRow, RolloutRow

#: Which step of a question gives which order.
_ORDERED_BY: Final[Mapping[str, tuple[str, ...]]] = {
    "rollout.opened": ("question.fanned_out",),
    "candidate": ("question.routed", "question.rerouted"),
    "sibling": ("question.answered",),
    "rollout.submitted": ("question.answered", "question.failed"),
    "rollout.failed": ("question.failed",),
}
_AFTER_ANSWER: Final = ("question.answered", "question.failed")
_PHASES: Final = {
    event: rule.phase for (_, event), rule in TABLES[Kind.ROLLOUT].items() if rule.phase is not None
}


def check_questions(book: Book, findings: Findings, *, closed: bool) -> None:
    """Ends, projections, joins, answers. `closed`: a question that is still open is a fault."""
    # A waiting question that is being cancelled counts as open before it has its next event.
    woken = {row.stream for row in book.history.active if row.status == "waiting"}
    for row in book.history.questions:
        stream = book.streams.get(row.id)
        if stream is not None:
            _ended_once(stream, findings, closed=closed)
            _differences(stream.id, _told(row), _question(stream, woken=row.id in woken), findings)
            _joins(book, row, stream, findings)
            _answer(book, row, stream, findings)
    for rollout in book.history.rollouts:
        _rollout(book, rollout, findings)
    _counters(book, woken, findings)


def _ended_once(stream: Stream, findings: Findings, *, closed: bool) -> None:
    ends, last = len(stream.of(*_AFTER_ANSWER)), len(stream.of("question.consolidated"))
    if ends > 1 or last > 1 or last > ends:
        findings.add(
            Check.ENDED_ONCE,
            f"was answered or failed {ends} times and consolidated {last} times",
            stream.id,
        )
    elif closed and last == 0:
        findings.add(Check.ENDED_ONCE, f"has not ended: it is {stream.status}", stream.id)


# --- projections --------------------------------------------------------------------------------


def _told(row: QuestionRow) -> dict[str, Any]:
    return {
        name: getattr(row, name)
        for name in (
            "id",
            "pos",
            "batch",
            "source",
            "row",
            "pass_no",
            "status",
            "g",
            "candidate",
            "official",
            "answer",
            "reason",
            "grade",
            "closed",
        )
    }


def _question(stream: Stream, *, woken: bool) -> dict[str, Any]:
    """What a question's row must say, as far as its events' payloads are there."""
    row: dict[str, Any] = {
        "status": "open" if woken else "waiting",
        "g": 0,
        "candidate": None,
        "official": None,
        "answer": None,
        "reason": None,
        "grade": None,
        "closed": False,
    }
    for entry in stream.entries:
        row |= _sets(entry)
        if entry.payload is None:
            for name in _GONE.get(entry.row.type, ()):
                row.pop(name, None)
    return row


#: What cannot be said of a row once the payload of an event is gone.
_GONE: Final = {
    "question.fanned_out": ("g",),
    "question.routed": ("candidate",),
    "question.rerouted": ("candidate",),
    "question.answered": ("official", "answer"),
    "question.failed": ("reason",),
    "question.consolidated": ("grade",),
}


def _sets(entry: Entry) -> dict[str, Any]:
    """The columns that an event sets: a status by its type, the others by its payload."""
    columns = dict(_STATUS.get(entry.row.type, {}))
    match entry.payload:
        case ev.QuestionAsked() as asked:
            columns |= {"source": asked.source, "row": asked.row, "pass_no": asked.pass_no}
        case ev.QuestionOpened() as opened:
            columns |= {"pos": opened.position, "batch": opened.batch}
        case ev.QuestionFannedOut() as fanned:
            columns |= {"g": fanned.rollouts}
        case ev.QuestionRouted() as routed:
            columns |= {"candidate": next(iter(routed.order), None)}
        case ev.QuestionRerouted() as rerouted:
            columns |= {"candidate": rerouted.candidate}
        case ev.QuestionAnswered() as answered:
            columns |= {"official": answered.rollout, "answer": answered.answer}
        case ev.QuestionFailed() as failed:
            columns |= {"reason": failed.reason}
        case ev.QuestionConsolidated() as consolidated:
            columns |= {"grade": consolidated.grade}
    return columns


_STATUS: Final[Mapping[str, dict[str, Any]]] = {
    "question.opened": {"status": "open"},
    "question.answered": {"status": "answered"},
    "question.failed": {"status": "failed"},
    "question.consolidated": {"closed": True},
}


def _rollout(book: Book, row: RolloutRow, findings: Findings) -> None:
    stream = book.streams.get(row.id)
    if row.question not in book.questions:
        findings.add(Check.KINSHIP, f"serves question {row.question}, which there is not", row.id)
    if stream is None:
        return
    expected: dict[str, Any] = {"id": ids.rollout_id(row.question, row.number), "phase": 0}
    expected["outcome"] = None
    for entry in stream.entries:
        phase = _PHASES.get(entry.row.type, Phase.PLANNING)
        if phase > expected["phase"]:
            expected |= {"phase": int(phase), "outcome": _outcome(entry)}
        if isinstance(entry.payload, ev.RolloutOpened):
            expected["number"] = entry.payload.number
    if any(entry.payload is None for entry in stream.of("rollout.judged", "rollout.failed")):
        expected.pop("outcome")
    told = {name: getattr(row, name) for name in ("id", "phase", "outcome", "number")}
    _differences(row.id, told, expected, findings)
    _orders(book, stream, findings)


def _outcome(entry: Entry) -> str | None:
    match entry.payload:
        case ev.RolloutJudged() as judged:
            return judged.grade
        case ev.RolloutFailed() as failed:
            return failed.reason
        case _:
            return None


def _differences(
    stream: UUID, told: Mapping[str, Any], expected: Mapping[str, Any], findings: Findings
) -> None:
    wrong = [
        f"{name} is {told[name]!r}, its events say {value!r}"
        for name, value in expected.items()
        if name in told and told[name] != value
    ]
    if wrong:
        findings.add(Check.PROJECTION, "; ".join(wrong), stream)


def _counters(book: Book, woken: Collection[UUID], findings: Findings) -> None:
    run = book.run
    if run.run_no == 0:
        return
    questions = [book.streams[q.id] for q in book.history.questions if q.id in book.streams]
    expected = {
        "accepted": len(book.history.questions),
        "opened": sum(stream.last.seq > 1 or stream.id in woken for stream in questions),
        "ended": sum(bool(stream.of("question.consolidated")) for stream in questions),
    }
    told = {name: getattr(run, name) for name in expected}
    _differences(run.id, told, expected, findings)


# --- joins --------------------------------------------------------------------------------------


def _joins(book: Book, row: QuestionRow, stream: Stream, findings: Findings) -> None:
    rollouts = book.rollouts_of.get(row.id, [])
    reached = {r.number: _reached(book.streams.get(r.id)) for r in rollouts}
    planned = sum(phase >= Phase.PLANNED for phase in reached.values())
    ended = sum(phase >= Phase.ENDED for phase in reached.values())
    told = (row.planned, row.ended, row.g)
    findings.require(
        told == (planned, ended, len(rollouts)),
        Check.JOIN,
        f"counts (planned, ended, of) {told}, its rollouts say {(planned, ended, len(rollouts))}",
        row.id,
    )
    numbers = [r.number for r in rollouts]
    if numbers != list(range(len(rollouts))):
        findings.add(Check.JOIN, f"has rollouts {numbers}", row.id)
    _early(stream, reached, findings)
    _missed(stream, row, reached, findings)


def _reached(stream: Stream | None) -> int:
    entries: Sequence[Entry] = stream.entries if stream is not None else ()
    return max((_PHASES.get(entry.row.type, 0) for entry in entries), default=0)


def _early(stream: Stream, reached: Mapping[int, int], findings: Findings) -> None:
    """A join must not come before what it waits for."""
    for entry in stream.entries:
        match entry.row.type, entry.payload:
            case "question.planned", _:
                holds = all(phase >= Phase.PLANNED for phase in reached.values())
            case "question.graded", _:
                holds = all(phase >= Phase.ENDED for phase in reached.values())
            case "question.settling", ev.QuestionSettling(candidate=number):
                holds = reached.get(number, 0) >= Phase.PROPOSED
            case _:
                continue
        findings.require(
            holds, Check.JOIN, f"{entry.where}: came before what it waits for", stream.id
        )


def _missed(
    stream: Stream, row: QuestionRow, reached: Mapping[int, int], findings: Findings
) -> None:
    """What a join waits for is there, and it has not come: the question would wait for ever."""
    match stream.status:
        case "planning":
            due = all(phase >= Phase.PLANNED for phase in reached.values())
        case "executing":
            due = reached.get(-1 if row.candidate is None else row.candidate, 0) >= Phase.PROPOSED
        case "grading":
            due = all(phase >= Phase.ENDED for phase in reached.values())
        case _:
            due = False
    findings.require(
        not due, Check.JOIN, f"waits in {stream.status} for what is there already", stream.id
    )


# --- answers and orders -------------------------------------------------------------------------


def _answer(book: Book, row: QuestionRow, stream: Stream, findings: Findings) -> None:
    """The official answer is the one that the candidate of that moment proposed."""
    candidate: int | None = None
    for entry in stream.entries:
        candidate = _sets(entry).get("candidate", candidate)
        if not isinstance(entry.payload, ev.QuestionAnswered):
            continue
        official = entry.payload
        rollout = book.streams.get(ids.rollout_id(row.id, official.rollout))
        proposed = list(rollout.payloads(ev.RolloutProposed)) if rollout is not None else []
        erased = rollout is not None and any(e.payload is None for e in rollout.entries)
        if candidate is not None and candidate != official.rollout:
            findings.add(
                Check.ANSWER,
                f"answered with rollout {official.rollout}, the candidate was {candidate}",
                row.id,
                entry.row.seq,
            )
        elif not erased and official.answer not in [p.answer for p in proposed]:
            findings.add(
                Check.ANSWER,
                f"rollout {official.rollout} never proposed the official answer",
                row.id,
                entry.row.seq,
            )


def _orders(book: Book, stream: Stream, findings: Findings) -> None:
    """Each order rests on the step that gave it; a grade on the one that ended the question."""
    released = False
    for entry in stream.entries:
        if origin(entry).ordered:
            step = _step_behind(book, stream, entry)
            problem = _misordered(entry, step)
            if problem:
                findings.add(Check.ORDER, f"{entry.where}: {problem}", stream.id, entry.row.seq)
            released = released or (step is not None and step.row.type in _AFTER_ANSWER)
        if entry.row.type == "rollout.judged" and not released:
            findings.add(
                Check.TEST_THEN_TRAIN,
                "was judged, but nothing shows that its question had ended first",
                stream.id,
                entry.row.seq,
            )


def _step_behind(book: Book, stream: Stream, order: Entry) -> Entry | None:
    """The question's step that an order came with: both rest on the same command."""
    question = book.question_of(stream)
    command = book.by_id.get(order.row.cause) if order.row.cause is not None else None
    if question is None or command is None or command.row.stream != question.id:
        return None
    step = question.at(command.row.seq + 1)
    return step if step is not None and step.row.cause == command.row.id else None


def _misordered(order: Entry, step: Entry | None) -> str:
    if step is None:
        return "no step of its question came with it"
    name: str = order.row.type
    if name == "rollout.chosen":
        if not isinstance(order.payload, ev.RolloutChosen):
            return ""
        name = order.payload.role
    allowed = _ORDERED_BY[name]
    return (
        "" if step.row.type in allowed else f"came with {step.row.type}, not {' or '.join(allowed)}"
    )


__all__ = ["check_questions"]
