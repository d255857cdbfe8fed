"""What a simulation left behind, as a replay reads it from Postgres."""

import msgspec

from mia_events.steps import QuestionView, RunView
from storage.inmemory.state import Database
from storage.postgres.replay import RecordedEffect, RecordedEvent, Recording

__all__ = ["recording_of"]


def recording_of(db: Database, run_no: int = 1) -> Recording:
    """The whole run."""
    run = db.runs[run_no]
    effects: dict = {}  # type: ignore[type-arg]
    for (command, ordinal), row in db.effects.items():
        effects.setdefault(command, {})[ordinal] = RecordedEffect(
            kind=row.kind, request_sha=row.request_sha, result=row.result, sealed=row.sealed
        )
    return Recording(
        run=RunView(
            run_no=run_no, id=run.id, name=run.name, scope=run.scope, manifest=run.manifest
        ),
        streams={
            stream: tuple(
                RecordedEvent(
                    stream=stream, seq=e.seq, id=e.id, kind=e.kind, type=e.type, topic=e.topic,
                    at=e.at, question=e.correlation, claim=e.claim, body=e.body,
                )
                for e in events
            )
            for stream, events in db.events.items()
            if events[0].run_no == run_no
        },
        effects=effects,
        questions={
            row.id: QuestionView(
                id=row.id, text=msgspec.json.decode(row.new.body)["text"], source=row.new.source,
                row=row.new.row, pass_no=row.new.pass_no, position=row.pos,
            )
            for row in db.questions.values()
        },
        batches={row.id: row.batch for row in db.questions.values()},
        buried=frozenset(letter.event_id for letter in db.letters.values() if letter.event_id),
    )  # fmt: skip
