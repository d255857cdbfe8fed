"""Every check of the auditor finds what is planted for it, and nothing in a run that is whole."""

from collections.abc import Callable
from uuid import UUID

import msgspec
import pytest

from mia_events import ids
from ops.audit.auditor import check_book, digest_of, summarise
from ops.audit.book import Book
from ops.audit.findings import Check, Findings
from schemas import events as ev
from storage.postgres.audit import EventRow, History
from tests.support import audit_history as book
from tests.support.audit_history import (
    QUESTIONS,
    change,
    drop_event,
    edit,
    edit_event,
    payload,
    rechained,
    rollout,
    whole_run,
)

NOBODY = UUID("00000000-0000-4000-8000-0000000000ff")
FIRST, SECOND = rollout(0, 0), rollout(0, 1)
Plant = Callable[[History], History]
new = msgspec.structs.replace


def found(history: History, *, closed: bool = False) -> set[Check]:
    """The checks that fail."""
    findings = Findings()
    check_book(Book(history), findings, closed=closed)
    return set(findings.counts)


def event(stream: UUID, seq: int, **columns: object) -> Plant:
    """Other columns of an event, the chain computed again."""

    def plant(history: History) -> History:
        def change_row(row: EventRow) -> EventRow:
            return msgspec.convert({**msgspec.structs.asdict(row), **columns}, EventRow)

        return rechained(edit_event(history, stream, seq, change_row))

    return plant


def row(table: str, place: int, **columns: object) -> Plant:
    """Other columns of a row."""
    return lambda history: edit(history, table, place, **columns)


def says(stream: UUID, seq: int, event_: ev.Event) -> Plant:
    """Another payload."""
    return lambda history: payload(history, stream, seq, event_)


def without(table: str, place: int) -> Plant:
    """A row gone."""

    def plant(history: History) -> History:
        rows = list(getattr(history, table))
        del rows[place]
        return new(history, **{table: tuple(rows)})

    return plant


def then(*plants: Plant) -> Plant:
    """Several changes."""

    def plant(history: History) -> History:
        for one in plants:
            history = one(history)
        return history

    return plant


def twice(stream: UUID, seq: int) -> Plant:
    """An event that is there twice."""

    def plant(history: History) -> History:
        copies = [
            copy
            for one in history.events
            for copy in (one, one)[: 2 if (one.stream, one.seq) == (stream, seq) else 1]
        ]
        return rechained(new(history, events=tuple(copies)))

    return plant


def repeated(history: History) -> History:
    """A question consolidated a second time, from the same command."""
    last = book.event(history, QUESTIONS[0], 9)
    again = new(last, seq=10, id=ids.event_id(QUESTIONS[0], 10), claim=99)
    rows = [copy for one in history.events for copy in ((one, again) if one is last else (one,))]
    return rechained(new(history, events=tuple(rows)))


def unanswered(history: History) -> History:
    """A candidate that went to the judge by itself, as a sibling does."""
    return says(FIRST, 5, ev.RolloutFinished(answer="a"))(
        event(FIRST, 5, type="rollout.finished")(history)
    )


#: What is planted, under the checks that must find it, all of them and no other.
PLANTED: list[tuple[str, set[Check], Plant]] = [
    (
        "an event deleted in the middle",
        {Check.SEQUENCE, Check.CHAIN, Check.TRANSITION},
        lambda history: drop_event(history, SECOND, 2),
    ),
    (
        "an event twice",
        {
            Check.SEQUENCE,
            Check.IDENTITY,
            Check.CLAIM,
            Check.CAUSE,
            Check.DONE_ONCE,
            Check.TRANSITION,
        },
        twice(SECOND, 2),
    ),
    (
        "an id that its place does not derive",
        {Check.IDENTITY, Check.HEAD, Check.MEMORY},
        event(book.LEARNER, 3, id=NOBODY),
    ),
    (
        "a batch under another id",
        {Check.IDENTITY, Check.KINSHIP, Check.GENERATION},
        row("batches", 0, number=0, id=NOBODY),
    ),
    ("a cause that is not there", {Check.CAUSE}, event(QUESTIONS[0], 9, cause=NOBODY)),
    ("a cause where there is none", {Check.CAUSE}, event(QUESTIONS[0], 4, cause=book.LEARNER)),
    (
        "a step done twice",
        {Check.DONE_ONCE, Check.CAUSE, Check.ENDED_ONCE, Check.TRANSITION},
        repeated,
    ),
    ("a claim used twice", {Check.CLAIM}, event(FIRST, 2, claim=1)),
    ("a claim that was used is held", {Check.CLAIM}, row("active", 0, claim=1)),
    ("a step that nobody claimed", {Check.CLAIM}, event(FIRST, 2, claim=None)),
    ("a join under a claim", {Check.CLAIM}, event(QUESTIONS[0], 4, claim=99)),
    ("an attempt that was not counted", {Check.CLAIM}, event(FIRST, 2, attempt=0)),
    ("an event that its table forbids", {Check.TRANSITION, Check.ROUTE, Check.ANSWER}, unanswered),
    ("another topic", {Check.ROUTE}, event(FIRST, 1, topic="mia.judge")),
    (
        "a byte of a payload changed",
        {Check.CHAIN, Check.BODY},
        lambda h: edit_event(h, FIRST, 2, lambda one: new(one, body=(one.body or b"")[:-1])),
    ),
    (
        "a hash that does not follow",
        {Check.CHAIN},
        lambda h: edit_event(h, FIRST, 2, lambda one: new(one, hash=b"\x00" * 32)),
    ),
    ("a payload of another type", {Check.BODY}, says(FIRST, 2, ev.RolloutSubmitted())),
    ("a head that is not the last hash", {Check.HEAD}, row("active", 0, head=b"\x00" * 32)),
    ("a version behind its events", {Check.HEAD}, row("active", 0, version=1)),
    ("a stream that no worker finds", {Check.HEAD}, without("active", 0)),
    ("a run that stands elsewhere", {Check.HEAD}, lambda h: change(h, version=2)),
    ("a question with another head", {Check.HEAD}, row("questions", 0, head=b"\x00" * 32)),
    ("a batch with another head", {Check.HEAD}, row("batches", 1, head=b"\x00" * 32)),
    ("a dead letter without its row", {Check.KINSHIP}, without("letters", 0)),
    ("a rollout of another question", {Check.KINSHIP}, event(FIRST, 2, correlation=QUESTIONS[1])),
    (
        "a question without events",
        {Check.KINSHIP, Check.PROJECTION, Check.BATCH},
        lambda h: new(h, questions=(*h.questions, new(h.questions[0], id=NOBODY, pos=7))),
    ),
    ("a status that was not reached", {Check.PROJECTION}, row("questions", 0, status="failed")),
    ("another answer", {Check.PROJECTION}, row("questions", 0, answer="b")),
    ("another official rollout", {Check.PROJECTION}, row("questions", 0, official=1)),
    ("another grade", {Check.PROJECTION}, row("questions", 0, grade="incorrect")),
    ("another size of group", {Check.PROJECTION, Check.JOIN}, row("questions", 0, g=3)),
    ("a rollout's other outcome", {Check.PROJECTION}, row("rollouts", 0, outcome="incorrect")),
    ("a count of the run", {Check.PROJECTION}, lambda h: change(h, ended=2)),
    ("a label whose event differs", {Check.PROJECTION}, row("labels", 0, commitment=b"\x22" * 32)),
    ("a rollout counted twice", {Check.JOIN}, row("questions", 0, ended=3)),
    ("a plan not counted", {Check.JOIN}, row("questions", 1, planned=1)),
    (
        "a batch's own end missed",
        {Check.JOIN, Check.PROJECTION},
        lambda h: change(
            edit(edit(h, "batches", 1, ended=1), "questions", 1, closed=True), ended=2
        ),
    ),
    (
        "the candidate's word against the official answer",
        {Check.ANSWER},
        says(FIRST, 5, ev.RolloutProposed(answer="b")),
    ),
    (
        "an answer of a rollout that was no candidate",
        {Check.ANSWER},
        then(
            says(QUESTIONS[0], 7, ev.QuestionAnswered(answer="a", rollout=1)),
            row("questions", 0, official=1),
        ),
    ),
    (
        "an order that came with another step",
        {Check.ORDER},
        says(FIRST, 3, ev.RolloutChosen(role="sibling")),
    ),
    ("more questions than a batch may hold", {Check.BATCH}, lambda h: change(h, batch_size=0)),
    ("a batch's wrong count", {Check.BATCH}, row("batches", 0, size=2)),
    (
        "a question in a batch that there is not",
        {Check.BATCH, Check.PROJECTION, Check.MEMORY},
        row("questions", 0, batch=5),
    ),
    (
        "a batch on another generation",
        {Check.GENERATION, Check.BATCH},
        row("batches", 1, generation=0),
    ),
    ("a batch opened too early", {Check.GENERATION, Check.JOIN}, lambda h: change(h, sealed_gen=0)),
    (
        "a rollout on another generation",
        {Check.GENERATION},
        says(FIRST, 1, ev.RolloutOpened(number=0, generation=4)),
    ),
    (
        "a generation sealed out of turn",
        {Check.GENERATION, Check.MEMORY},
        says(book.LEARNER, 3, ev.LearnerSealed(number=0, generation=2, training="skipped")),
    ),
    ("a memory newer than the batch", {Check.RECALL, Check.MEMORY}, row("memories", 0, from_gen=2)),
    (
        "a memory that had been replaced",
        {Check.RECALL, Check.MEMORY},
        row("memories", 0, until_gen=1),
    ),
    ("a memory that there is not", {Check.RECALL, Check.MEMORY}, row("memories", 0, version=2)),
    ("a memory that says something else", {Check.MEMORY}, row("memories", 0, text="do that")),
    ("a memory of another outcome", {Check.MEMORY}, row("memories", 0, outcome="failure")),
    ("a memory with a record from nowhere", {Check.MEMORY}, row("memories", 0, brought_uses=9)),
    ("a memory that pretends to be learned", {Check.MEMORY}, row("memories", 0, trust="imported")),
    ("a memory lost", {Check.MEMORY, Check.RECALL}, without("memories", 0)),
    ("a credit of another generation", {Check.MEMORY}, row("credits", 0, gen=2)),
    ("a write of memories that is not logged", {Check.MEMORY}, without("writes", 0)),
    ("a memory that nobody wrote", {Check.MEMORY}, row("memories", 0, causes=())),
    ("a credit that was not given", {Check.MEMORY}, row("credits", 0, won=False)),
    ("a credit lost", {Check.MEMORY}, without("credits", 0)),
    ("an effect of no event", {Check.EFFECT}, row("effects", 0, event_id=NOBODY)),
    ("an effect lost", {Check.EFFECT}, without("effects", 0)),
    (
        "an effect of what is no command",
        {Check.EFFECT},
        lambda h: new(
            h, effects=(*h.effects, new(h.effects[0], event_id=book.event(h, FIRST, 2).id))
        ),
    ),
    ("a retrieval that cannot be read", {Check.EFFECT}, row("effects", 1, result=b"{")),
    ("a label left open", {Check.SEALED}, row("effects", 2, sealed=False)),
    ("a reply to a label left open", {Check.SEALED}, row("effects", 3, sealed=False)),
]


@pytest.mark.parametrize(
    "checks, plant", [one[1:] for one in PLANTED], ids=[one[0] for one in PLANTED]
)
def test_what_is_planted_is_found(checks: set[Check], plant: Plant) -> None:
    """Each change is found by the checks that it concerns, and by no other."""
    assert checks == found(plant(whole_run()))


def test_nothing_is_found_in_a_whole_run() -> None:
    """The history that the faults are planted into has none."""
    assert set() == found(whole_run())


def test_every_check_has_something_planted() -> None:
    """A check that nothing can fail is none; a few have tests of their own."""
    planted = set().union(*(checks for _, checks, _ in PLANTED))
    elsewhere = {Check.RECORD, Check.FACT, Check.TEST_THEN_TRAIN, Check.VERSION}
    assert set(Check) - elsewhere == planted


@pytest.mark.parametrize("place", range(len(whole_run().events)))
def test_no_event_can_be_lost_copied_or_exchanged(place: int) -> None:
    """Whichever it is, and however well the chain was repaired: it is found, and read on."""
    history = whole_run()
    gone, other = history.events[place], history.events[place - 1]
    exchanged = new(gone, type=other.type, body=other.body)
    for rows in ((), (gone, gone), (exchanged,)):
        events = (*history.events[:place], *rows, *history.events[place + 1 :])
        assert found(rechained(new(history, events=events)))


def test_an_open_question_is_no_fault_unless_it_should_have_ended() -> None:
    """It is reported as open; `closed`, or a run that is over, makes it a fault."""
    history = whole_run()
    assert [(1, "executing")] == [(q.position, q.status) for q in summarise(Book(history)).open]
    assert {Check.ENDED_ONCE} == found(history, closed=True)
    assert Check.ENDED_ONCE in found(change(history, state="ended"))


def test_a_grade_before_the_answer_is_found() -> None:
    """A rollout that no step after its question's answer released cannot have been judged."""
    history = whole_run()
    submitted = book.event(history, FIRST, 6)
    cause = book.event(history, QUESTIONS[0], 4).id  # the command that the router handled
    name = ids.order_id(FIRST, cause, submitted.type)
    early = event(FIRST, 7, cause=name)(event(FIRST, 6, cause=cause, id=name)(history))
    early = edit(edit(early, "effects", 2, event_id=name), "effects", 3, event_id=name)
    assert {Check.TEST_THEN_TRAIN, Check.ORDER} == found(early)


def test_an_erased_payload_keeps_its_chain() -> None:
    """The digest vouches for it; what only the payload could say is not held against the row."""
    history = whole_run()
    erased = edit_event(history, QUESTIONS[0], 7, lambda one: new(one, body=None))
    assert set() == found(erased)
    assert 1 == summarise(Book(erased)).erased
    forged = edit_event(erased, QUESTIONS[0], 7, lambda one: new(one, body_sha=b"\x00" * 32))
    assert {Check.CHAIN} == found(forged)


def test_the_first_bad_row_of_a_chain_is_named() -> None:
    """A changed payload is found at its own event, not where the chain ends."""
    history = edit_event(
        whole_run(),
        QUESTIONS[0],
        3,
        lambda one: new(one, body=b'{"type":"question.fanned_out","rollouts":2 }'),
    )
    findings = Findings()
    check_book(Book(history), findings)
    assert [(Check.CHAIN, QUESTIONS[0], 3)] == [(f.check, f.stream, f.seq) for f in findings.kept]


def test_a_live_run_has_no_batches() -> None:
    """Without batches a question may read the newest memory, and its own step writes it."""
    history = whole_run()
    consolidated = book.event(history, QUESTIONS[0], 9).id
    live = new(
        change(history, mode="live", sealed_gen=0),
        batches=(),
        events=tuple(e for e in history.events if e.kind not in (3, 4)),
        active=tuple(a for a in history.active if a.kind != 4),
        memories=tuple(new(m, causes=(consolidated,)) for m in history.memories),
        writes=tuple(new(w, event_id=consolidated, stream=QUESTIONS[0]) for w in history.writes),
        questions=tuple(new(q, batch=None) for q in history.questions),
    )
    for number, question in enumerate(QUESTIONS):
        live = payload(live, question, 2, ev.QuestionOpened(position=number, generation=0))
        for one in range(2):
            opened = ev.RolloutOpened(number=one, generation=0)
            live = payload(live, rollout(number, one), 1, opened)
    assert set() == found(live)


def test_the_digest_hears_of_outcomes_alone() -> None:
    """Answers and memories change it; times, ids and attempts do not."""
    history = whole_run()
    same = new(
        change(history, id=NOBODY),
        events=tuple(new(one, at=book.START, attempt=7) for one in history.events),
    )
    assert digest_of(history) == digest_of(same)
    others = [
        edit(history, "questions", 0, answer="b"),
        edit(history, "questions", 0, official=1),
        edit(history, "memories", 0, text="do that"),
        edit(history, "credits", 0, won=False),
    ]
    assert 5 == len({digest_of(one) for one in (history, *others)})


def test_gold_values_are_counted_where_they_can_be_read() -> None:
    """The planted value stands in its question's events and in a memory, and nowhere else."""
    told = summarise(Book(whole_run()), labels=True).labels
    assert told is not None
    assert (1, 1, 0, 1, 0) == (
        told.labels, told.events, told.effects, told.memories, told.dead_letters,
    )  # fmt: skip


def test_only_the_first_faults_are_kept() -> None:
    """All are counted."""
    findings = Findings(keep=2)
    for number in range(5):
        findings.add(Check.FACT, f"fault {number}")
    assert (5, 2) == (findings.counts[Check.FACT], len(findings.kept))


def test_faults_name_their_run() -> None:
    """An audit of all runs says whose each is."""
    findings = Findings()
    with findings.of("mine"):
        findings.require(holds=False, check=Check.BATCH, what="wrong")
    assert ["mine"] == [fault.run for fault in findings.kept]
