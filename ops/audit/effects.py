"""Recorded effects: whose they are, what is sealed, and what retrievals were allowed to see."""

from __future__ import annotations

from itertools import groupby
from typing import Final

import msgspec

from mia_events.effects import Memories
from ops.audit.book import Book, Entry
from ops.audit.findings import Check, Findings
from ops.audit.origins import origin
from schemas import events as ev
from storage.postgres.audit import EffectRow

_memories: Final = msgspec.json.Decoder(Memories)
#: Which request of a command's handler reads what can no longer change: that has no record.
_READS: Final = {
    "question.planned": 0,
    "question.graded": 0,
    "learner.batch_ready": 0,
    "learner.merged": 1,
}


def check_effects(book: Book, findings: Findings) -> None:
    """Every effect belongs to a command; ordinals have no gap where the step went through."""
    for event_id, group in groupby(book.history.effects, key=lambda effect: effect.event_id):
        effects = sorted(group, key=lambda effect: effect.ordinal)
        entry = book.by_id.get(event_id)
        if entry is None:
            findings.add(
                Check.EFFECT, f"{len(effects)} effects of event {event_id}, which there is not"
            )
            continue
        if entry.row.topic is None:
            findings.add(
                Check.EFFECT,
                f"{entry.where}: has effects, but is no command",
                entry.row.stream,
                entry.row.seq,
            )
        _ordinals(book, entry, effects, findings)
        _sealing(entry, effects, findings)
        for effect in effects:
            _recall(book, entry, effect, findings)


def _ordinals(book: Book, entry: Entry, effects: list[EffectRow], findings: Findings) -> None:
    numbers = [effect.ordinal for effect in effects]
    twice = len(numbers) != len(set(numbers))
    read = _READS.get(entry.row.type)
    if twice or (_completed(book, entry) and not _plain(numbers, read)):
        findings.add(
            Check.EFFECT,
            f"{entry.where}: has the effects {numbers}",
            entry.row.stream,
            entry.row.seq,
        )


def _plain(numbers: list[int], read: int | None) -> bool:
    recorded = [number for number in range(len(numbers) + 1) if number != read]
    return numbers == recorded[: len(numbers)]


def _completed(book: Book, entry: Entry) -> bool:
    """True when the handler came to its end; of one that failed, effects may be missing."""
    stream = book.streams[entry.row.stream]
    step = stream.at(entry.row.seq + 1)
    if step is None or not origin(step).own or step.row.claim is None:
        return False
    match step.payload:
        case ev.RolloutFailed() | ev.QuestionFailed():
            return False
        case ev.QuestionConsolidated(problem=problem):
            return not problem
        case ev.LearnerSealed(problem=problem, scores=scores):
            return not problem or bool(scores)  # a guard looked all the same
        case _:
            return True


def _sealing(entry: Entry, effects: list[EffectRow], findings: Findings) -> None:
    """A label, and every reply after it, is in the sealed schema."""
    after = False
    for effect in effects:
        after = after or effect.kind == "label" or effect.sealed
        if after and not effect.sealed:
            findings.add(
                Check.SEALED,
                f"{entry.where}: effect {effect.ordinal} ({effect.kind}) is open to all "
                "roles, though it follows a label",
                entry.row.stream,
                entry.row.seq,
            )


def _recall(book: Book, entry: Entry, effect: EffectRow, findings: Findings) -> None:
    if effect.kind != "recall" or effect.result is None:
        return
    pin = _generation(book, entry)
    try:
        items = _memories.decode(effect.result).items
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        what = f"{entry.where}: effect {effect.ordinal} cannot be read: {error}"
        findings.add(Check.EFFECT, what, entry.row.stream, entry.row.seq)
        return
    for item in items:
        memory = book.memories.get((item.id, item.version))
        wrong = ""
        if memory is None:
            wrong = "which there is not"
        elif pin is not None and memory.from_gen > pin:
            wrong = f"of generation {memory.from_gen}, on generation {pin}"
        elif pin is not None and memory.until_gen is not None and memory.until_gen <= pin:
            wrong = f"replaced in generation {memory.until_gen}, on generation {pin}"
        if wrong:
            findings.add(
                Check.RECALL,
                f"{entry.where}: retrieved version {item.version} of memory {item.id}, {wrong}",
                entry.row.stream,
                entry.row.seq,
            )


def _generation(book: Book, entry: Entry) -> int | None:
    """The generation that an event's question is pinned to; None where the newest may be read."""
    question = book.question_of(book.streams[entry.row.stream])
    if book.live or question is None:
        return None
    opened = next(question.payloads(ev.QuestionOpened), None)
    return opened.generation if opened is not None else None


__all__ = ["check_effects"]
