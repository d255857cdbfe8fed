"""The diagrams are drawn from the tables, whole, and committed as drawn."""

import re

import pytest

from mia_events.lifecycle import BATCH, ENDED, JOINS, QUESTION, ROLLOUT, TABLES, Kind, Rule, Table
from mia_events.lifecycle.diagram import pending_topics, state_diagram
from ops.generate.__main__ import main
from ops.generate.outputs import ROOT
from ops.generate.sections import UnknownSection, filled, sections

ARROW = re.compile(r"^ {4}(?P<source>\S+) --> (?P<target>\S+) : (?P<event>\S+)", re.MULTILINE)
NOTE = re.compile(
    r"note right of (?P<target>\S+)\n\s+(?P<event>[a-z._]+).* leads here from (?P<sources>.+)"
)


def drawn(diagram: str) -> set[tuple[str | None, str, str]]:
    """The (status, event, next status) of every arrow and note of a diagram."""
    arrows = {
        (None if m["source"] == "[*]" else m["source"], m["event"], m["target"])
        for m in ARROW.finditer(diagram)
    }
    notes = {
        (source, m["event"], m["target"])
        for m in NOTE.finditer(diagram)
        for source in re.split(", | and ", m["sources"])
    }
    return arrows | notes


@pytest.mark.parametrize("kind", TABLES)
def test_a_diagram_shows_every_rule_and_nothing_else(kind: Kind) -> None:
    """Read back, the picture is the table."""
    expected = {(status, event, rule.status) for (status, event), rule in TABLES[kind].items()}
    assert expected == drawn(state_diagram(kind))


@pytest.mark.parametrize("kind", TABLES)
def test_a_state_names_the_topic_of_its_pending_command(kind: Kind) -> None:
    """Where a stream waits no topic is shown; elsewhere the one that the rules give."""
    shown = dict(re.findall(r'state "(\S+) · (\S+)" as ', state_diagram(kind)))
    expected = {rule.status: rule.topic for rule in TABLES[kind].values() if rule.topic}
    assert expected == shown


def test_joins_are_marked_in_the_questions_diagram_alone() -> None:
    """Each join is on its arrow, with its condition."""
    marked = re.findall(r"--> \S+ : (\S+) \(join, ", state_diagram(Kind.QUESTION))
    assert [join.event for join in JOINS] == marked
    assert "question.graded (join, ended ≥ g)" in state_diagram(Kind.QUESTION)
    assert not [kind for kind in TABLES if kind != Kind.QUESTION and "join" in state_diagram(kind)]


def test_answers_and_failures_are_shown_going_out() -> None:
    """The outbox is part of the picture: this is what users hear of."""
    diagram = state_diagram(Kind.QUESTION)
    assert "question.answered (also to mia.answer)" in diagram
    assert "question.failed (also to mia.answer)" in diagram


def test_every_state_of_every_table_can_be_reached_and_left() -> None:
    """No state is a trap: from each there is a way to the end, or for a learner back to idle."""
    for kind, table in TABLES.items():
        goal = "idle" if kind is Kind.LEARNER else ENDED
        states = {rule.status for rule in table.values()}
        assert {status for status, _ in table if status is not None} <= states, kind
        assert states == ending(table, goal), kind


def ending(table: Table, goal: str) -> set[str]:
    """The states from which a goal can be reached."""
    found = {goal}
    while more := {s for (s, _), rule in table.items() if s and rule.status in found} - found:
        found |= more
    return found


def test_rules_that_disagree_about_a_states_topic_are_an_error() -> None:
    """A state says what is pending; two answers would make one of them false."""
    table = {
        (None, "a.begun"): Rule(status="going", topic="mia.plan"),
        ("going", "a.turned"): Rule(status="going", topic="mia.judge"),
    }
    with pytest.raises(ValueError, match=r"going is reached with mia\.plan and mia\.judge"):
        pending_topics(table)


def test_waiting_states_have_no_topic() -> None:
    """A question waits for its rollouts, a proposed rollout for its question, a batch always."""
    assert pending_topics(QUESTION)["grading"] is None
    assert pending_topics(ROLLOUT)["proposed"] is None
    assert {None} == set(pending_topics(BATCH).values())


def test_the_page_has_every_section_filled() -> None:
    """The committed page is what filling it gives, with a diagram for each kind of stream."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert page == filled(page, sections())
    assert all(state_diagram(kind) in page for kind in TABLES)


def test_filling_replaces_only_between_the_markers() -> None:
    """Prose around a section stays as it was written."""
    page = "before\n<!-- generated: topics -->\nold\n<!-- end -->\nafter\n"
    expected = "before\n<!-- generated: topics -->\n\nnew \\1\n\n<!-- end -->\nafter\n"
    assert expected == filled(page, {"topics": "new \\1"})


@pytest.mark.parametrize(
    "page",
    [
        "",
        "<!-- generated: topics -->\n<!-- end -->\n" * 2,
        "<!-- generated: other -->\n<!-- end -->",
    ],
)
def test_a_page_without_exactly_the_sections_is_refused(page: str) -> None:
    """A section that was lost, doubled or misspelt is not passed over."""
    with pytest.raises(UnknownSection, match="topics"):
        filled(page, {"topics": "text"})


def test_the_check_succeeds_on_what_is_committed(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m ops.generate --check` says nothing and exits 0."""
    assert 0 == main(["--check"])
    assert ("", "") == tuple(capsys.readouterr())


def test_the_check_names_a_stale_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It exits 1 with the file and the remedy."""
    changed = {**sections(), "topics": "another table"}
    monkeypatch.setattr("ops.generate.outputs.sections", lambda: changed)
    assert 1 == main(["--check"])
    expected = "docs/architecture.md: out of date; run `make docs` and commit it\n"
    assert expected == capsys.readouterr().err
