"""The jobs of a run's planner versions, made again from what was recorded."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from consumers.runner.drive import Ask
from mia_events import topics
from mia_events.effect_codec import decode_reply, request_sha
from mia_events.effects import Train
from mia_events.learning.job import Trained, TrainJob
from mia_events.steps import Stage
from ops.replay.replay import replay
from storage.postgres.replay import RecordedEvent, Recording

__all__ = ["Remade", "jobs_of"]


class Remade(msgspec.Struct, frozen=True, kw_only=True):
    """A version's job as the ledger gives it now, and what its update came to.

    `same` is false when this is not the job that was trained: something that it is made from has
    changed since. `trained` is None when the reply was erased.
    """

    job: TrainJob
    trained: Trained | None
    same: bool


def jobs_of(recording: Recording, stages: Mapping[str, Stage]) -> tuple[Remade, ...]:
    """Return the job of every update of a run, oldest first.

    A version whose groups or tokens were erased has none any more.
    """
    found: list[Remade] = []

    def heard(command: RecordedEvent, ask: Ask) -> None:
        if isinstance(ask.effect, Train):
            found.append(_remade(recording, command, ask, ask.effect))

    replay(recording, stages, heard=heard, of=(topics.TRAIN,))
    return tuple(found)


def _remade(recording: Recording, command: RecordedEvent, ask: Ask, effect: Train) -> Remade:
    row = recording.effects.get(command.id, {}).get(ask.ordinal)
    known = row.result if row is not None else None
    reply = decode_reply(effect, known) if known is not None else None
    return Remade(
        job=effect.job,
        trained=reply if isinstance(reply, Trained) else None,
        same=row is not None and row.request_sha == request_sha(effect),
    )
