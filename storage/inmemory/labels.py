"""Sealed labels, without a seal: only tests use this twin."""

from __future__ import annotations

from hashlib import sha256
from uuid import UUID, uuid5

from mia_events import ids
from mia_events.lifecycle import Kind
from schemas.envelope import encode_payload
from schemas.events import LabelReceived, event_type
from storage.inmemory.state import Database, Head, NewEvent
from storage.ports import Emitted


class InMemoryLabels:
    """Twin of the label store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def seal(
        self, run_no: int, question: UUID, value: str, *, source: str
    ) -> tuple[Emitted, ...]:
        """Keep a label and ledger its commitment; the same source again is one label."""
        by_source = self._db.labels.setdefault(question, {})
        if source in by_source:
            return ()
        by_source[source] = value
        label = uuid5(question, f"label\x1f{source}")
        salt = sha256(f"{source}\x1f{label}".encode()).digest()  # seeded: a twin has no secrets
        event = LabelReceived(
            question=question, commitment=sha256(salt + value.encode()).hexdigest()
        )
        self._db.append(
            Head(),
            NewEvent(
                run_no=run_no,
                stream=label,
                id=ids.event_id(label, 1),
                kind=Kind.FACT,
                type=event_type(event),
                body=encode_payload(event),
                correlation=question,
            ),
        )
        for row in self._db.active.values():
            if row.parent == question and row.status == "judging" and row.due_at is not None:
                row.due_at = min(row.due_at, self._db.clock())
        return ()

    async def label(self, question: UUID) -> str | None:
        """The newest label of a question."""
        values = self._db.labels.get(question)
        return list(values.values())[-1] if values else None

    async def waited(self, run_no: int, event_id: UUID) -> float:
        """Seconds since an event was committed."""
        for past in self._db.events.values():
            for event in past:
                if (event.run_no, event.id) == (run_no, event_id):
                    return (self._db.clock() - event.at).total_seconds()
        raise LookupError(f"no event {event_id}")


__all__ = ["InMemoryLabels"]
