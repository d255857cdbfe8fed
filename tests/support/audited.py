"""What a simulation left behind, as an auditor reads it: all but its memories."""

from storage.inmemory.state import Database
from storage.postgres.audit import (
    BatchRow,
    EffectRow,
    EventRow,
    GroupRow,
    History,
    QuestionRow,
    RolloutRow,
    RunRow,
    VersionRow,
)

__all__ = ["history_of"]


def history_of(db: Database) -> History:
    """The only run."""
    (run,) = db.runs.values()
    return History(
        run=RunRow(
            run_no=run.run_no, id=run.id, name=run.name, scope=run.scope, mode=run.manifest.mode,
            state=run.state, rollouts=run.manifest.rollouts, batch_size=run.manifest.batch_size,
            lag=run.manifest.lag, version=run.head.version, head=run.head.hash,
            sealed_gen=run.sealed_gen, accepted=run.accepted, opened=run.opened, ended=run.ended,
            policy=run.policy, trains=run.manifest.train,
        ),
        events=tuple(
            EventRow(
                run_no=e.run_no, stream=e.stream, seq=e.seq, id=e.id, kind=e.kind, type=e.type,
                topic=e.topic, at=e.at, cause=e.cause, correlation=e.correlation, claim=e.claim,
                attempt=e.attempt, body_sha=b"", hash=e.hash, body=e.body,
            )
            for stream in sorted(db.events)
            for e in db.events[stream]
        ),
        questions=tuple(
            QuestionRow(
                id=q.id, pos=q.pos, batch=q.batch, source=q.new.source, row=q.new.row,
                pass_no=q.new.pass_no, status=q.status, g=q.g, planned=q.planned, ended=q.ended,
                candidate=q.candidate, official=q.official, answer=q.answer, reason=q.reason,
                grade=q.grade, closed=q.closed, head=q.head.hash,
            )
            for q in db.questions.values()
        ),
        rollouts=tuple(
            RolloutRow(id=o.id, question=o.question, number=o.number, phase=o.phase,
                       outcome=o.outcome)
            for o in db.rollouts.values()
        ),
        batches=tuple(
            BatchRow(
                id=b.id, number=b.number, status=b.status, size=b.size, ended=b.ended,
                generation=b.generation, policy=b.policy, version=b.head.version, head=b.head.hash,
            )
            for b in db.batches.values()
        ),
        effects=tuple(
            EffectRow(event_id=command, ordinal=ordinal, kind=row.kind, sealed=row.sealed,
                      result=None)
            for (command, ordinal), row in sorted(db.effects.items())
        ),
        versions=tuple(
            VersionRow(
                number=v.number, name=v.name, parent=v.parent, batch=v.batch, state=v.state,
                adapter_sha=bytes.fromhex(v.adapter_sha256),
                optimizer_sha=bytes.fromhex(v.optimizer_sha256),
                data_sha=bytes.fromhex(v.data_sha256), event_id=v.event_id,
            )
            for v in db.policies.values()
        ),
        groups=tuple(
            GroupRow(question=question, batch=batch) for question, batch in db.used_groups.items()
        ),
    )  # fmt: skip
