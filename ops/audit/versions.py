"""Planner versions: the registry says what the events say, in one chain, from whole groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import msgspec

from mia_events.learning.groups import GRADED
from mia_events.learning.versions import BASE, version_name
from mia_events.lifecycle import Kind
from mia_events.ordering import by_time
from ops.audit.book import Book, Entry, Stream
from ops.audit.findings import Check, Findings
from schemas import events as ev
from storage.postgres.audit import VersionRow


class _Fold(msgspec.Struct):
    """What serves, and what became of each version, as the events tell it so far."""

    serving: str = BASE
    orders: int = 0
    states: dict[str, str] = {}
    generations: dict[int, str] = {}


#: Events after which an order may have come while their step was being made.
_LATE: Final = (ev.LearnerTrained, ev.LearnerUntrained)


def check_versions(book: Book, findings: Findings) -> None:
    """Registry, chain, groups and pins of a run that trains. Nothing where a payload is erased."""
    for learner in book.of_kind(Kind.LEARNER):
        if any(entry.payload is None for entry in learner.entries):
            continue
        made = [entry for entry in learner.entries if isinstance(entry.payload, ev.LearnerTrained)]
        _registered(book, made, findings)
        fold = _folded(book, learner, findings)
        _standing(book, fold, findings)
        _groups(book, learner, findings)
        if not fold.orders:
            _pins(book, fold, findings)


def _registered(book: Book, made: list[Entry], findings: Findings) -> None:
    rows = {row.event_id: row for row in book.history.versions}
    for number, entry in enumerate(made, 1):
        row = rows.pop(entry.row.id, None)
        told = _told(entry.payload, number)
        findings.require(
            row is not None and _kept(row) == told,
            Check.VERSION,
            f"{entry.where}: registered is {row and _kept(row)}, it says {told}",
            entry.row.stream,
        )
    for row in rows.values():
        findings.add(Check.VERSION, f"{row.name} was made by no event of the learner")


def _told(payload: object, number: int) -> tuple[object, ...]:
    """The version as its event has it: the n-th update makes version n."""
    assert isinstance(payload, ev.LearnerTrained)
    return (
        number,
        version_name(number),
        payload.policy,
        payload.parent,
        payload.number,
        payload.adapter_sha256,
        payload.optimizer_sha256,
        payload.data_sha256,
    )


def _kept(row: VersionRow) -> tuple[object, ...]:
    shas = (row.adapter_sha, row.optimizer_sha, row.data_sha)
    return (
        row.number,
        row.name,
        row.name,
        row.parent,
        row.batch,
        *(sha.hex() for sha in shas),
    )


def _folded(book: Book, learner: Stream, findings: Findings) -> _Fold:
    """Decisions and orders in the order of their time."""
    fold = _Fold()
    made_from: str | None = None
    candidate = ""
    entries = _entries(book, learner)
    for entry in by_time(entries, lambda one: (one.row.stream, one.row.at, one.row.seq)):
        match entry.payload:
            case ev.RunPolicySet(policy=policy, previous=previous):
                _require_serving(fold, previous, entry, findings)
                _ordered(fold, policy, previous)
            case ev.LearnerTrained() as trained:
                _require_serving(fold, trained.parent, entry, findings)
                made_from, candidate = trained.parent, trained.policy
                fold.states[candidate] = "candidate"
            case ev.LearnerUntrained(policy=policy):
                _require_serving(fold, policy, entry, findings)
                made_from = candidate = policy
            case ev.LearnerSealed() as sealed:
                if made_from is not None:
                    _decided(fold, sealed, candidate, made_from)
                made_from = None
                fold.generations[sealed.generation] = fold.serving
    return fold


def _entries(book: Book, learner: Stream) -> Iterator[Entry]:
    yield from learner.entries
    run = book.streams.get(book.run.id)
    yield from run.of("run.policy_set") if run is not None else ()


def _require_serving(fold: _Fold, named: str, entry: Entry, findings: Findings) -> None:
    findings.require(
        # An order may have come while the update was being made.
        named == fold.serving or (fold.orders and isinstance(entry.payload, _LATE)),
        Check.VERSION,
        f"{entry.where}: names {named} as what serves, that was {fold.serving}",
        entry.row.stream,
    )


def _ordered(fold: _Fold, policy: str, previous: str) -> None:
    fold.orders += 1
    fold.serving = policy
    names = list(fold.states)
    if previous in names and (policy == BASE or names.index(policy) < names.index(previous)):
        fold.states[previous] = "rolled_back"
    if policy in names:
        fold.states[policy] = "promoted"


def _decided(fold: _Fold, sealed: ev.LearnerSealed, candidate: str, parent: str) -> None:
    promoted = sealed.training == "promoted"
    if candidate != parent and (promoted or fold.serving != candidate):
        fold.states[candidate] = "promoted" if promoted else "held_back"
    if sealed.policy not in (candidate, parent) and parent in fold.states:
        fold.states[parent] = "rolled_back"
    if fold.serving == parent:
        fold.serving = sealed.policy


def _standing(book: Book, fold: _Fold, findings: Findings) -> None:
    states = {row.name: row.state for row in book.history.versions}
    findings.require(
        states == fold.states,
        Check.VERSION,
        f"versions are registered as {states}, their events make them {fold.states}",
    )
    findings.require(
        book.run.policy == fold.serving,
        Check.VERSION,
        f"{book.run.policy} serves, the events say {fold.serving}",
    )


def _groups(book: Book, learner: Stream, findings: Findings) -> None:
    """Every group that could train was used up by the first batch that could take it, once."""
    used = Counter(group.batch for group in book.history.groups)
    for trained in learner.payloads(ev.LearnerTrained):
        findings.require(
            used[trained.number] >= trained.groups,
            Check.VERSION,
            f"{trained.policy} was made from {trained.groups} groups, batch {trained.number} "
            f"used {used[trained.number]}",
        )
    known = {group.question: group.batch for group in book.history.groups}
    decided = {sealed.number for sealed in learner.payloads(ev.LearnerSealed)}
    decided &= {merged.number for merged in learner.payloads(ev.LearnerMerged)}
    for question in book.history.questions:
        graded = [row for row in book.rollouts_of.get(question.id, []) if row.outcome in GRADED]
        due = question.closed and question.batch in decided and len(graded) > 1
        findings.require(
            not due or question.id in known,
            Check.VERSION,
            f"its group was left out of batch {question.batch}",
            question.id,
        )
        at = known.get(question.id)
        findings.require(
            at is None or question.batch is None or question.batch <= at,
            Check.VERSION,
            f"its group of batch {question.batch} was used by batch {at}",
            question.id,
        )


def _pins(book: Book, fold: _Fold, findings: Findings) -> None:
    """A batch is on the version of its generation."""
    for batch in book.history.batches:
        if batch.generation is None:
            continue
        sealed = [number for number in fold.generations if number <= batch.generation]
        expected = fold.generations[max(sealed)] if sealed else BASE
        findings.require(
            batch.policy == expected,
            Check.VERSION,
            f"batch {batch.number} is on {batch.policy}, its generation on {expected}",
            batch.id,
        )


__all__ = ["check_versions"]
