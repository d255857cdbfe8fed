"""Every step again: the same handlers over the recorded histories, replies read from the ledger.

With other labels in place of the sealed ones it shows that no label went anywhere: the judge's
recorded replies stand, its requests are not compared, and nothing else may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

import msgspec

from consumers.runner.drive import INTENT, Ask, Drive
from mia_events import topics
from mia_events.commits import Guard, step_commit
from mia_events.effect_codec import Reply, decode_reply, effect_kind, request_sha
from mia_events.effects import UNRECORDED, Label, ReadBatch, ReadGroups, ReadLabel, ReadRollouts
from mia_events.lifecycle import Kind
from mia_events.steps import Handler, QuestionView, Stage, Task
from ops.replay import reads
from ops.replay.reads import Erased
from schemas.envelope import decode_payload
from storage.postgres.replay import RecordedEffect, RecordedEvent, Recording

__all__ = ["Difference", "Replayed", "replay"]

_JUDGED: Final = "rollout.judged"
#: Parts of a judgement that are computed from the label.
_FROM_LABEL: Final = ("em", "f1")


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Where a replay left the recorded way: the command, what it was, what differs."""

    event: UUID
    stream: UUID
    command: str
    what: str


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay covered, and where it differed.

    `not_compared` are requests that hold a label (the judge's) while labels were replaced;
    `skipped` steps whose payloads are erased.
    """

    steps: int
    requests: int
    not_compared: int
    skipped: int
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """No difference was found."""
        return not self.differences


class _Left(Exception):
    """The replay left the recorded way."""


def _unheard(_: RecordedEvent, __: Ask) -> None:
    return


def replay(
    recording: Recording,
    stages: Mapping[str, Stage],
    labels: Mapping[UUID, str] | None = None,
    *,
    heard: Callable[[RecordedEvent, Ask], None] = _unheard,
    of: Container[str] = topics.COMMANDS,
) -> Replayed:
    """Take every step again. `labels`, by question, stand in for the sealed ones that there are.

    `heard` is told each request and the command that it was made for. Only commands on the topics
    `of` are handled again.
    """
    again = _Replay(recording, stages, labels, heard)
    wanted = (step for step in _steps(recording) if step[0].topic in of)
    steps = sorted(wanted, key=lambda step: step[1].type != _JUDGED)  # judgements first
    for command, event in steps:
        again.step(command, event)
    return Replayed(
        steps=again.steps,
        requests=again.requests,
        not_compared=again.not_compared,
        skipped=again.skipped,
        differences=tuple(again.differences),
    )


def _steps(recording: Recording) -> Iterator[tuple[RecordedEvent, RecordedEvent]]:
    """Pairs of a command and the event that its handler's step appended."""
    for events in recording.streams.values():
        for command, event in pairwise(events):
            if event.claim is not None and command.topic and command.id not in recording.buried:
                yield command, event


class _Replay:
    def __init__(
        self,
        recording: Recording,
        stages: Mapping[str, Stage],
        labels: Mapping[UUID, str] | None,
        heard: Callable[[RecordedEvent, Ask], None],
    ) -> None:
        self._recording, self._stages, self._labels = recording, stages, labels
        self._heard = heard
        self._bodies: dict[UUID, bytes] = {}
        self.steps = self.requests = self.not_compared = self.skipped = 0
        self.differences: list[Difference] = []

    def step(self, command: RecordedEvent, event: RecordedEvent) -> None:
        """Take one step again and keep what differs."""
        past = self._recording.streams[command.stream][: command.seq]
        self.steps += 1
        try:
            if any(e.body is None for e in (*past, event)):
                raise Erased  # noqa: TRY301 - as if a read had met it
            self._again(command, event, self._task(command, past))
        except Erased:
            self.steps -= 1
            self.skipped += 1
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is the finding
            self.differences.append(
                Difference(
                    event=command.id,
                    stream=command.stream,
                    command=command.type,
                    what=str(error)
                    if isinstance(error, _Left)
                    else f"{type(error).__name__}: {error}",
                )
            )

    def _task(self, command: RecordedEvent, past: tuple[RecordedEvent, ...]) -> Task:
        return Task(
            run=self._recording.run,
            question=self._question(command),
            stream=command.stream,
            kind=command.kind,
            status=reads.status(command.kind, past) or "",
            version=command.seq,
            event_id=command.id,
            history=tuple(decode_payload(self._body(event)) for event in past),
        )

    def _question(self, command: RecordedEvent) -> QuestionView | None:
        if command.kind not in (Kind.ROLLOUT, Kind.QUESTION) or command.question is None:
            return None
        try:
            return self._recording.questions[command.question]
        except KeyError:
            raise Erased from None

    def _body(self, event: RecordedEvent) -> bytes:
        return self._bodies.get(event.id) or event.body or b""

    def _again(self, command: RecordedEvent, event: RecordedEvent, task: Task) -> None:
        drive = Drive(self._handler(command, task), task)
        recorded = self._recording.effects.get(command.id, {})
        used = self._replies(drive, command, event, recorded)
        if drive.step is None:
            return
        unused = {n for n, row in recorded.items() if row.kind != INTENT} - used
        if unused:
            raise _Left(f"effects {sorted(unused)} were recorded and are not asked for")
        commit = step_commit(task, drive.step, claim=0, attempt=0, guard=Guard.CLAIM)
        own = commit.entries[0]
        self._compare(event, own.type, own.body)
        for order in commit.entries[1:]:
            for other in self._recording.streams.get(order.stream, ()):
                if other.id == order.event_id:
                    self._compare(other, order.type, order.body)

    def _handler(self, command: RecordedEvent, task: Task) -> Handler:
        try:
            return self._stages[command.topic or ""][type(task.command)]
        except KeyError:
            raise _Left(f"no handler for it on {command.topic}") from None

    def _replies(
        self,
        drive: Drive,
        command: RecordedEvent,
        event: RecordedEvent,
        recorded: Mapping[int, RecordedEffect],
    ) -> set[int]:
        used: set[int] = set()
        while drive.step is None:
            for ask in drive.asks:
                self._heard(command, ask)
                if not isinstance(ask.effect, UNRECORDED):
                    used.add(ask.ordinal)
                drive.give(ask, self._reply(ask, event, recorded))
            drive.take()
        return used

    def _reply(
        self, ask: Ask, event: RecordedEvent, recorded: Mapping[int, RecordedEffect]
    ) -> Reply:
        match ask.effect:
            case ReadRollouts(question=question):
                return reads.rollouts(self._recording, question, event.at, self._bodies)
            case ReadBatch(number=number):
                return reads.batch(self._recording, number)
            case ReadGroups(questions=questions):
                return reads.groups(self._recording, questions, self._bodies)
        row = recorded.get(ask.ordinal)
        if row is None:
            raise _Left(f"request {ask.ordinal} ({effect_kind(ask.effect)}) is not recorded")
        if row.result is None:
            raise Erased
        self._check(ask, row)
        reply = decode_reply(ask.effect, row.result)
        return self._relabelled(ask, reply)

    def _check(self, ask: Ask, row: RecordedEffect) -> None:
        kind = effect_kind(ask.effect)
        if row.sealed and self._labels is not None and not isinstance(ask.effect, ReadLabel):
            self.not_compared += 1
            return
        self.requests += 1
        if (row.kind, row.request_sha) != (kind, request_sha(ask.effect)):
            raise _Left(f"request {ask.ordinal} ({kind}) is not the one that was made")

    def _relabelled(self, ask: Ask, reply: Reply) -> Reply:
        if self._labels is None or not isinstance(reply, Label) or reply.value is None:
            return reply
        question: Any = ask.effect
        # What a run holds back is no question of it: its label stands.
        return Label(self._labels.get(question.question, reply.value))

    def _compare(self, event: RecordedEvent, type_: str, body: bytes) -> None:
        if event.type != type_:
            raise _Left(f"{type_} follows, {event.type} was committed")
        if body == event.body:
            return
        if self._labels is not None and type_ == _JUDGED:
            self._bodies[event.id] = body
            if _without_label(body) == _without_label(event.body or b"{}"):
                return
        raise _Left(f"{type_} has another content than what was committed")


def _without_label(body: bytes) -> dict[str, Any]:
    said: dict[str, Any] = msgspec.json.decode(body)
    parts = {name: part for name, part in said.get("parts", {}).items() if name not in _FROM_LABEL}
    return {**said, "parts": parts}
