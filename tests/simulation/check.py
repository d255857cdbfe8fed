"""Whether what a simulation left behind keeps every promise; nothing here is the runner's."""

from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from uuid import UUID

import msgspec

from consumers.runner.drive import Drive
from consumers.stages import STAGES
from mia_events import ids, topics
from mia_events.chain import GENESIS, chain_hash
from mia_events.digest import MemoryLine, QuestionLine, content_hash, run_digest
from mia_events.effects import (
    UNRECORDED,
    AnyEffect,
    Consolidated,
    ConsolidatedQuestion,
    Groups,
    ReadBatch,
    ReadGroups,
    ReadRollouts,
    Rollouts,
    RolloutView,
)
from mia_events.lifecycle import ENDED, TABLES, Kind
from mia_events.steps import QuestionView, RunView, Task
from schemas.envelope import decode_envelope, decode_payload, encode_payload
from schemas.events import LearnerSealed, LearnerTrained
from storage.inmemory.policies import group_view, trainable
from storage.inmemory.state import Database, EventRow
from tests.simulation.simulate import Result, conditions

__all__ = ["digest_of", "findings", "versions_of"]

_ENDS = {"rollout.judged", "rollout.failed"}


def findings(result: Result) -> list[str]:
    """What is wrong; empty when nothing is."""
    with conditions(result.scenario):
        return _findings(result)


def _findings(result: Result) -> list[str]:
    if result.finished is None:
        return [f"the run did not end: {line}" for line in _unfinished(result.db)] or ["no end"]
    checks = (
        _worker_errors(result), _run_has_ended(result.db), _questions_ended_once(result.db),
        _streams_follow_their_tables(result.db), _chains_verify(result.db),
        _steps_happened_once(result.db), _joins_are_complete(result.db),
        _effects_lead_to_their_steps(result.db), _calls_were_not_repeated(result),
        _records_are_in_the_ledger(result), _answers_were_published(result),
        _versions_are_whole(result.db),
    )  # fmt: skip
    return [finding for check in checks for finding in check]


def digest_of(db: Database) -> str:
    """The digest of the only run."""
    used: Counter[UUID] = Counter()
    won: Counter[UUID] = Counter()
    for (memory, _), credit in db.credits.items():
        used[memory] += 1
        won[memory] += credit.won
    return run_digest(
        (
            QuestionLine(
                position=row.pos, source=row.new.source, row=row.new.row, pass_no=row.new.pass_no,
                status=row.status, official=row.official, answer=row.answer, grade=row.grade,
            )
            for row in db.questions.values()
        ),
        (
            MemoryLine(
                dedupe_key=row.dedupe_key, version=row.version,
                content=content_hash(question=row.question, text=row.text), outcome=row.outcome,
                from_gen=row.from_gen, until_gen=row.until_gen, uses=used[row.id],
                wins=won[row.id],
            )
            for row in db.memories
        ),
    )  # fmt: skip


def versions_of(db: Database) -> tuple[str, ...]:
    """The only run's planner versions and the groups that each batch used up, one line each.

    The scripted trainer's artifacts are a function of the job: equal SHAs are equal jobs.
    """
    versions = [
        f"{row.name} of {row.parent} from batch {row.batch}: {row.state} {row.adapter_sha256} "
        f"{row.optimizer_sha256} {row.data_sha256} {sha256(row.record).hexdigest()}"
        for row in db.policies.values()
    ]
    used = sorted((batch, str(question)) for question, batch in db.used_groups.items())
    return (*versions, *(f"{question} trained in batch {batch}" for batch, question in used))


def _versions_are_whole(db: Database) -> Iterator[str]:
    """The registry says what the events say; no group is in two updates, and none is in part."""
    (run,) = db.runs.values()
    learner = [decode_payload(event.body) for event in db.events.get(ids.learner_id(run.id), [])]
    trained = [event for event in learner if isinstance(event, LearnerTrained)]
    sealed = [event for event in learner if isinstance(event, LearnerSealed)]
    told = [(e.policy, e.parent, e.number, e.adapter_sha256, e.data_sha256) for e in trained]
    rows = list(db.policies.values())
    kept = [(r.name, r.parent, r.batch, r.adapter_sha256, r.data_sha256) for r in rows]
    if told != kept:
        yield f"events tell of versions {told}, registered are {kept}"
    promoted = [event.candidate for event in sealed if event.training == "promoted"]
    if promoted != [row.name for row in rows if row.state in {"promoted", "rolled_back"}]:
        yield f"{promoted} were promoted, registered are {[(r.name, r.state) for r in rows]}"
    serving = {event.generation: event.policy for event in sealed}
    for batch in db.batches.values():
        expected = serving.get(batch.generation or 0, "base")
        if batch.policy != expected:
            yield f"batch {batch.number} was on {batch.policy}, its generation's is {expected}"
    for row in trainable(db, run.run_no) if run.manifest.train else ():
        yield f"the group of question {row.pos} was left out"
    for question, number in db.used_groups.items():
        if db.questions[question].batch not in (number, None):
            yield f"group {question} of batch {db.questions[question].batch} trained in {number}"


def _unfinished(db: Database) -> Iterator[str]:
    for row in db.active.values():
        yield (
            f"{row.kind.name.lower()} {row.stream} is {row.status} at version {row.head.version}, "
            f"topic {row.topic}, claim {row.claim}, attempt {row.attempt}, sent {row.sent}"
        )
    for question in db.questions.values():
        if question.status == "waiting":
            yield f"question {question.pos} was never opened"
    yield from (f"outbox holds {row.fact.type}" for row in db.outbox.values())


def _worker_errors(result: Result) -> Iterator[str]:
    yield from result.errors


def _run_has_ended(db: Database) -> Iterator[str]:
    (run,) = db.runs.values()
    if run.state != ENDED or run.ended != run.accepted or run.accepted != len(db.questions):
        yield f"run is {run.state}: {run.ended} of {run.accepted} ended, {len(db.questions)} known"
    for row in db.active.values():
        yield f"{row.kind.name.lower()} {row.stream} is still active"
    for batch in db.batches.values():
        size = sum(question.batch == batch.number for question in db.questions.values())
        if batch.status != ENDED or not batch.size == batch.ended == size:
            yield f"batch {batch.number} is {batch.status}: {batch.ended} of {batch.size}, {size}"
        if batch.generation != max(0, batch.number - run.manifest.lag):
            yield f"batch {batch.number} read generation {batch.generation}"


def _questions_ended_once(db: Database) -> Iterator[str]:
    for question in db.questions.values():
        types = Counter(event.type for event in db.events[question.id])
        verdicts = types["question.answered"] + types["question.failed"]
        if verdicts != 1 or types["question.consolidated"] != 1:
            yield f"question {question.pos} has {verdicts} verdicts: {dict(types)}"
        if (question.status == "answered") != (types["question.answered"] == 1):
            yield f"question {question.pos} is {question.status}: {dict(types)}"


def _streams_follow_their_tables(db: Database) -> Iterator[str]:
    for stream, log in db.events.items():
        if log[0].kind is Kind.FACT:
            continue
        status: str | None = None
        for event in log:
            rule = TABLES[event.kind].get((status, event.type))
            if rule is None:
                yield f"{stream} took {event.type} while {status}"
                break
            status = rule.status
            if rule.topic != event.topic and event.kind is not Kind.BATCH:
                yield f"{event.type} of {stream} went to {event.topic}, not {rule.topic}"
        if status != ENDED and log[0].kind is not Kind.LEARNER:
            yield f"{stream} is {status} at the end"


def _chains_verify(db: Database) -> Iterator[str]:
    seen: set[UUID] = set()
    for stream, log in db.events.items():
        previous = GENESIS
        for seq, event in enumerate(log, 1):
            previous = chain_hash(
                previous, stream=stream, seq=seq, event_id=event.id, cause=event.cause,
                at=event.at, body_sha256=sha256(event.body).digest(), type_=event.type,
            )  # fmt: skip
            if previous != event.hash or event.seq != seq:
                yield f"the chain of {stream} breaks at {seq} ({event.type})"
                break
            if event.id in seen:
                yield f"event id {event.id} is used twice"
            seen.add(event.id)


def _steps_happened_once(db: Database) -> Iterator[str]:
    """A command leads to one event on its own stream, under one claim, right after itself."""
    for stream, log in db.events.items():
        for before, event in pairwise(log):
            if event.claim is not None and event.cause != before.id:
                yield f"{event.type} of {stream} was not caused by the event before it"
        causes = Counter(event.cause for event in log if event.claim is not None)
        for cause, count in causes.items():
            if count > 1:
                yield f"command {cause} of {stream} was done {count} times"
    claims = Counter(event.claim for log in db.events.values() for event in log if event.claim)
    yield from (f"claim {claim} committed {n} events" for claim, n in claims.items() if n > 1)


def _joins_are_complete(db: Database) -> Iterator[str]:
    for question in db.questions.values():
        rollouts = [row for row in db.rollouts.values() if row.question == question.id]
        numbers = sorted(row.number for row in rollouts)
        if numbers != list(range(question.g)):
            yield f"question {question.pos} fanned out to {numbers}, not {question.g}"
        if not question.ended == question.planned == len(rollouts):
            counts = f"{question.planned} planned, {question.ended} ended of {len(rollouts)}"
            yield f"question {question.pos} counts {counts}"
        if any(row.phase != 3 for row in rollouts):
            yield f"question {question.pos} has rollouts that did not end"
        names = [event.id for event in db.events[question.id] if event.type == "question.graded"]
        if names != [ids.join_id(question.id, "graded")]:
            yield f"question {question.pos} was graded as {names}"


def _effects_lead_to_their_steps(db: Database) -> Iterator[str]:
    """Each committed step follows from its recorded effects: the handler is run over them again.

    What it reads of other streams is read as of its command.
    """
    recorded: dict[UUID, list[int]] = {}
    for event_id, ordinal in db.effects:
        recorded.setdefault(event_id, []).append(ordinal)
    for log in db.events.values():
        for place, event in enumerate(log):
            if event.claim is not None and not _pre_empted(event):
                yield from _repeat(db, log[:place], event, recorded)


def _pre_empted(event: EventRow) -> bool:
    stated = event.type in {"question.consolidated", "learner.sealed"}
    failed = event.type in {"rollout.failed", "question.failed"}
    looked = b'"scores"' in event.body  # a guard did, though nothing was made
    return failed or (stated and b'"problem"' in event.body and not looked)


def _repeat(
    db: Database, history: list[EventRow], event: EventRow, recorded: dict[UUID, list[int]]
) -> Iterator[str]:
    command = history[-1]
    task = _task(db, history)
    rows = [db.effects[command.id, n] for n in sorted(recorded.get(command.id, ()))]
    handler = STAGES.get(command.topic or "", {}).get(type(task.command))
    if handler is None:
        yield f"{command.type} {command.id} is no command, but a step follows it"
        return
    try:
        drive = Drive(handler, task, rows)
        while drive.asks and isinstance(drive.asks[0].effect, UNRECORDED):
            drive.give(drive.asks[0], _read(db, drive.asks[0].effect, command.place))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        yield f"{command.type} {command.id} cannot be repeated: {error!r}"
        return
    if drive.step is None:
        yield f"{command.type} {command.id} was committed without record {drive.asks[0].ordinal}"
    elif encode_payload(drive.step.event) != event.body:
        yield f"{command.type} {command.id} does not lead to {event.body[:200]!r}"
    drive.close()


def _read(db: Database, effect: AnyEffect, place: int) -> Rollouts | Consolidated | Groups:
    """What a read found when only the first `place` events were there."""
    if isinstance(effect, ReadGroups):
        return Groups(tuple(group_view(db, question) for question in effect.questions))
    if isinstance(effect, ReadRollouts):
        views = [
            RolloutView(
                number=row.number,
                id=row.id,
                ended=any(event.type in _ENDS for event in _until(db, row.id, place)),
                history=_bodies(db, row.id, place),
            )
            for row in db.rollouts.values()
            if row.question == effect.question
        ]
        return Rollouts(tuple(sorted(views, key=lambda view: view.number)))
    assert isinstance(effect, ReadBatch)
    rows = [row for row in db.questions.values() if row.batch == effect.number]
    return Consolidated(
        tuple(
            ConsolidatedQuestion(
                question=row.id, position=row.pos, body=_bodies(db, row.id, place)[-1]
            )
            for row in sorted(rows, key=lambda row: row.pos)
        )
    )


def _until(db: Database, stream: UUID, place: int) -> list[EventRow]:
    return [event for event in db.events[stream] if event.place <= place]


def _bodies(db: Database, stream: UUID, place: int) -> tuple[msgspec.Raw, ...]:
    return tuple(msgspec.Raw(event.body) for event in _until(db, stream, place))


def _task(db: Database, history: list[EventRow]) -> Task:
    (run,) = db.runs.values()
    last = history[-1]
    row = db.questions.get(last.correlation) if last.correlation is not None else None
    status: str | None = None
    for event in history:
        status = TABLES[event.kind][status, event.type].status
    return Task(
        run=RunView(
            run_no=run.run_no, id=run.id, name=run.name, scope=run.scope, manifest=run.manifest
        ),
        question=QuestionView(
            id=row.id, text=msgspec.json.decode(row.new.body)["text"], source=row.new.source,
            row=row.new.row, pass_no=row.new.pass_no, position=row.pos,
        )
        if row is not None
        else None,
        stream=last.stream, kind=last.kind, status=status or "", version=len(history),
        event_id=last.id, history=tuple(decode_payload(event.body) for event in history),
    )  # fmt: skip


def _calls_were_not_repeated(result: Result) -> Iterator[str]:
    yield from result.account.repeated
    for (event_id, _), count in result.account.unrepeatable.items():
        if count > 1:
            yield f"a tool that must not be repeated was called {count} times for {event_id}"


def _records_are_in_the_ledger(result: Result) -> Iterator[str]:
    """Whatever was published is an event of the ledger, byte for byte."""
    events = {event.id: event for log in result.db.events.values() for event in log}
    for record in result.broker.everything:
        if record.topic == topics.QUESTION:
            continue
        envelope = decode_envelope(record.value)
        event = events.get(envelope.id)
        if event is None or (event.stream, event.seq) != (envelope.stream, envelope.seq):
            yield f"{record.topic} holds {envelope.type} {envelope.id}, the ledger does not"
        elif encode_payload(envelope.data) != event.body:
            yield f"{record.topic} holds another {envelope.type} {envelope.id} than the ledger"


def _answers_were_published(result: Result) -> Iterator[str]:
    published = {
        decode_envelope(record.value).stream
        for record in result.broker.everything
        if record.topic == topics.ANSWER
    }
    missing = set(result.db.questions) - published
    yield from (f"the verdict on question {stream} was never published" for stream in missing)
    yield from (f"outbox still holds {row.fact.type}" for row in result.db.outbox.values())
