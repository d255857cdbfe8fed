"""The life-cycle tables, driven: no dead ends, every status reachable, counters within bounds."""

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mia_events.lifecycle import (
    ENDED,
    JOINS,
    QUESTION,
    ROLLOUT,
    TABLES,
    Kind,
    NoTransition,
    Phase,
    Table,
    advance,
    shared_rule,
)
from schemas.events import EVENT_TYPES

#: What ends a kind of stream; a learner ends with its run.
_ENDS: Mapping[Kind, frozenset[str]] = {
    Kind.ROLLOUT: frozenset({"rollout.judged", "rollout.failed"}),
    Kind.QUESTION: frozenset({"question.consolidated"}),
    Kind.BATCH: frozenset({"batch.ended"}),
    Kind.LEARNER: frozenset(),
    Kind.RUN: frozenset({"run.finished", "run.cancelled"}),
}
#: Events that something other than a command of the stream itself appends in a waiting status.
_WAKERS: Mapping[Kind, frozenset[str]] = {
    Kind.ROLLOUT: frozenset({"rollout.chosen", "rollout.submitted"}),
    Kind.QUESTION: frozenset({"question.opened", *(join.event for join in JOINS)}),
    Kind.BATCH: frozenset({"batch.opened", "batch.closed", "batch.ended"}),
    Kind.LEARNER: frozenset({"learner.batch_ready"}),
    Kind.RUN: frozenset(
        {"run.paused", "run.resumed", "run.closed", "run.finished", "run.cancelled"}
    ),
}
_kinds = pytest.mark.parametrize("kind", list(TABLES))


def _statuses(table: Table) -> set[str]:
    return {status for status, _ in table if status is not None} | {
        entry.status for entry in table.values()
    }


def _reached(table: Table, start: str | None) -> set[str | None]:
    reached: set[str | None] = {start}
    while True:
        more = {entry.status for (status, _), entry in table.items() if status in reached}
        if more <= reached:
            return reached
        reached |= more


@_kinds
def test_every_status_is_reachable(kind: Kind) -> None:
    """From nothing, every status of the table can be reached."""
    assert _statuses(TABLES[kind]) <= _reached(TABLES[kind], None)


@_kinds
def test_there_are_no_dead_ends(kind: Kind) -> None:
    """From every status the end can be reached; a learner can always come to rest."""
    end = "idle" if kind is Kind.LEARNER else ENDED
    for status in _statuses(TABLES[kind]):
        assert end in _reached(TABLES[kind], status), status


@_kinds
def test_only_the_named_events_end_a_stream(kind: Kind) -> None:
    """Terminal rules are exactly those of the events that end this kind."""
    ending = {event for (_, event), entry in TABLES[kind].items() if entry.terminal}
    assert _ENDS[kind] == ending


@_kinds
def test_a_stream_that_waits_is_woken_by_somebody(kind: Kind) -> None:
    """A status without a command has an event from outside that leads on."""
    table = TABLES[kind]
    waiting = {entry.status for entry in table.values() if entry.topic is None} - {ENDED}
    for status in waiting:
        assert _WAKERS[kind] & {event for known, event in table if known == status}, status


@_kinds
def test_every_event_of_a_table_exists(kind: Kind) -> None:
    """The tables name events of the schema, and each belongs to its kind."""
    events = {event for _, event in TABLES[kind]}
    assert events <= set(EVENT_TYPES)
    prefixes = {event.split(".")[0] for event in events}
    assert prefixes <= {kind.name.lower(), "turn", "tool"}


@given(st.sampled_from(list(TABLES)), st.sampled_from(sorted(EVENT_TYPES)), st.data())
def test_what_is_not_in_the_table_names_state_and_event(
    kind: Kind, event: str, data: st.DataObject
) -> None:
    """A missing entry is one error type that says what was tried and what would be allowed."""
    status = data.draw(st.sampled_from([None, *sorted(_statuses(TABLES[kind]))]))
    if (status, event) in TABLES[kind]:
        assert advance(kind, TABLES[kind], status, event) is TABLES[kind][status, event]
        return
    with pytest.raises(NoTransition) as caught:
        advance(kind, TABLES[kind], status, event)
    assert (kind, status, event) == (caught.value.kind, caught.value.status, caught.value.event)
    assert event in str(caught.value)
    assert (status or "not there yet") in str(caught.value)
    for known, allowed in TABLES[kind]:
        if known == status:
            assert allowed in str(caught.value)


def test_an_order_that_would_do_different_things_is_refused() -> None:
    """An order does not see the status, so it must mean the same in all it names."""
    assert shared_rule(Kind.ROLLOUT, ROLLOUT, ["planning", "judging"], "rollout.failed").terminal
    table: Table = {
        ("a", "x"): ROLLOUT["planning", "rollout.planned"],
        ("b", "x"): ROLLOUT["planned", "rollout.chosen"],
    }
    with pytest.raises(ValueError, match="different things"):
        shared_rule(Kind.ROLLOUT, table, ["a", "b"], "x")


class QuestionMachine(RuleBasedStateMachine):
    """A question with its rollouts, driven by any allowed events in any order.

    The machine plays the commit: it applies an event where the tables allow it, counts phases, and
    appends joins when their counters say so.
    """

    @initialize(g=st.integers(1, 4))
    def ask(self, g: int) -> None:
        """A question is asked, opened and fanned out."""
        self.g = g
        self.question = "planning"
        self.rollouts = ["planning"] * g
        self.phases = [Phase.PLANNING] * g
        self.planned = self.ended = 0
        self.candidate: int | None = None
        self.joins: Counter[str] = Counter()
        self.verdicts = 0

    def _move(self, number: int, event: str) -> None:
        entry = advance(Kind.ROLLOUT, ROLLOUT, self.rollouts[number], event)
        self.rollouts[number] = entry.status
        before = self.phases[number]
        if entry.phase is not None and entry.phase > before:
            self.phases[number] = entry.phase
            self.planned += before < Phase.PLANNED
            self.ended += entry.phase is Phase.ENDED
        self._join()

    def _take(self, event: str) -> None:
        self.question = advance(Kind.QUESTION, QUESTION, self.question, event).status
        self.verdicts += event in {"question.answered", "question.failed"}
        self._join()

    def _join(self) -> None:
        due = {
            "planning": self.planned >= self.g,
            "executing": self.candidate is not None
            and self.phases[self.candidate] >= Phase.PROPOSED,
            "grading": self.ended >= self.g,
        }
        for join in JOINS:
            if join.status == self.question and due[join.status]:
                self.joins[join.name.format(candidate=self.candidate)] += 1
                self.question = advance(Kind.QUESTION, QUESTION, self.question, join.event).status
                return

    @precondition(lambda self: self.question != ENDED)
    @rule(data=st.data())
    def a_rollout_goes_on(self, data: st.DataObject) -> None:
        """Any rollout takes any event that it may take by itself."""
        steps = [
            (number, event)
            for number, status in enumerate(self.rollouts)
            for known, event in ROLLOUT
            if known == status
            and event not in _WAKERS[Kind.ROLLOUT]
            # Only the candidate proposes, before the answer; the others finish, after it.
            and (event != "rollout.proposed" or (number == self.candidate and not self.verdicts))
            and (event != "rollout.finished" or self.verdicts)
        ]
        if steps:
            self._move(*data.draw(st.sampled_from(steps)))

    @precondition(lambda self: self.question == "routing")
    @rule(data=st.data())
    def route(self, data: st.DataObject) -> None:
        """A planned rollout is chosen, or there is none."""
        self._choose(data, "question.routed")

    @precondition(lambda self: self.question == "settling")
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """The candidate's answer is taken, or the next candidate, or none is left."""
        assert self.candidate is not None
        if self.rollouts[self.candidate] != "proposed":
            self._choose(data, "question.rerouted")
            return
        self._order({"planned": "rollout.chosen", "proposed": "rollout.submitted"})
        self._take("question.answered")

    def _choose(self, data: st.DataObject, event: str) -> None:
        planned = [n for n, status in enumerate(self.rollouts) if status == "planned"]
        if not planned:
            self.fail()
            return
        self.candidate = data.draw(st.sampled_from(planned))
        self._move(self.candidate, "rollout.chosen")
        self._take(event)

    def _order(self, events: Mapping[str, str]) -> None:
        for number, status in enumerate(self.rollouts):
            if status in events:
                self._move(number, events[status])

    @precondition(lambda self: self.question in {"planning", "routing", "executing", "settling"})
    @rule()
    def fail(self) -> None:
        """A deadline or a cancel ends the question and all that is open."""
        verdict = advance(Kind.QUESTION, QUESTION, self.question, "question.failed")
        self.question, self.verdicts = verdict.status, self.verdicts + 1
        for number, status in enumerate(self.rollouts):
            if status != ENDED:
                self._move(number, "rollout.failed")
        self._join()

    @precondition(lambda self: self.question == "consolidating")
    @rule()
    def consolidate(self) -> None:
        """The question is over."""
        self._take("question.consolidated")

    @precondition(lambda self: self.question == ENDED)
    @rule(event=st.sampled_from(sorted({event for _, event in QUESTION})))
    def try_again(self, event: str) -> None:
        """A question that is over takes nothing more."""
        with pytest.raises(NoTransition, match="a question that is ended cannot take"):
            self._take(event)

    @invariant()
    def counters_stay_within_the_group(self) -> None:
        """No rollout counts twice."""
        assert self.ended <= self.planned <= self.g
        assert self.ended == self.rollouts.count(ENDED)

    @invariant()
    def every_join_happens_once(self) -> None:
        """A join has one event, whoever completes it."""
        assert all(count == 1 for count in self.joins.values())

    @invariant()
    def there_is_one_verdict(self) -> None:
        """Answered or failed, never both, and always before the end."""
        assert self.verdicts <= 1
        assert self.verdicts == (self.question in {"grading", "consolidating", ENDED})

    @invariant()
    def somebody_can_go_on(self) -> None:
        """As long as the question is not over, some stream has a command."""
        if self.question == ENDED:
            return
        commands = [_has_command(ROLLOUT, status) for status in self.rollouts]
        assert any(commands) or _has_command(QUESTION, self.question)

    def teardown(self) -> None:
        """At the end of a question every rollout is over."""
        if getattr(self, "question", None) == ENDED:
            assert {ENDED} == set(self.rollouts)
            assert self.g == self.planned == self.ended


def _has_command(table: Table, status: str) -> bool:
    return any(entry.status == status and entry.topic is not None for entry in table.values())


TestQuestionMachine = QuestionMachine.TestCase
