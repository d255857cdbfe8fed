"""The demonstration's log: a line for what a reader wants to see, and a count of every end."""

from datetime import UTC, datetime
from uuid import UUID

from mia_events import ids
from mia_events.lifecycle import Kind
from ops.story import Line, Story
from schemas import events as ev
from schemas.envelope import encode_payload
from storage.postgres.watch import SeenEvent

_QUESTION = UUID("00000000-0000-4000-8000-0000000000aa")
_ROLLOUT = ids.rollout_id(_QUESTION, 1)
_MEMORY = UUID("00000000-0000-4000-8000-0000000000bb")


def _seen(payload: ev.Event, stream: UUID = _QUESTION) -> SeenEvent:
    return SeenEvent(
        id=ids.event_id(stream, 1),
        stream=stream,
        seq=1,
        kind=Kind.QUESTION,
        type=ev.event_type(payload),
        at=datetime(2026, 1, 1, tzinfo=UTC),
        correlation=_QUESTION,
        body=encode_payload(payload),
    )


def _begun() -> Story:
    story = Story()
    story.tell(_seen(ev.QuestionAsked(text="Which river?", source="s", row="r")))
    story.tell(_seen(ev.QuestionOpened(position=4, generation=0)))
    story.tell(_seen(ev.RolloutOpened(number=1, generation=0), _ROLLOUT))
    return story


def test_a_question_is_named_by_its_place_and_rollout() -> None:
    """`Q05.1` is the second attempt at the fifth question."""
    plan = ev.RolloutPlanned(plan="1. Search\n2. Answer", memories=(_MEMORY,))
    assert Line("Q05.1", "plan", "1. Search 2. Answer  [from 1 memory]") == _begun().tell(
        _seen(plan, _ROLLOUT)
    )


def test_a_question_is_introduced_by_its_text() -> None:
    """Its text stands in another event than its start."""
    story = Story()
    asked = ev.QuestionAsked(text="Which river?", source="s", row="r")
    assert story.tell(_seen(asked)) is None
    line = story.tell(_seen(ev.QuestionOpened(position=0, generation=0)))
    assert Line("Q01", "question", "Which river?", "bold") == line


def test_long_texts_are_cut_to_a_line() -> None:
    """The log has one line an event, however much a model said."""
    line = _begun().tell(_seen(ev.RolloutReplanned(plan="word " * 100), _ROLLOUT))
    assert line is not None
    assert line.text.endswith("…")
    assert 96 == len(line.text)


def test_what_became_of_a_question_is_kept() -> None:
    """Ends are counted, so that one too many would show."""
    story = _begun()
    story.tell(_seen(ev.RolloutPlanned(plan="p", memories=(_MEMORY,)), _ROLLOUT))
    story.tell(_seen(ev.QuestionAnswered(answer="Osk", rollout=1)))
    kept = ev.MemoryCandidate(dedupe_key="k", text="t", question="q", outcome="success", rollout=1)
    story.tell(_seen(ev.QuestionConsolidated(grade="correct", memories=(kept,))))
    told = story.questions[_QUESTION]
    assert (1, "Osk", "correct", 1, {_MEMORY}, True) == (
        told.ends,
        told.answer,
        told.grade,
        told.written,
        told.used,
        told.over,
    )


def test_a_second_end_would_be_seen() -> None:
    """An answer and a failure are two ends."""
    story = _begun()
    story.tell(_seen(ev.QuestionAnswered(answer="Osk", rollout=1)))
    story.tell(_seen(ev.QuestionFailed(reason="timed_out")))
    assert 2 == story.questions[_QUESTION].ends


def test_events_that_only_move_things_on_have_no_line() -> None:
    """Joins and orders are the ledger's business."""
    assert _begun().tell(_seen(ev.QuestionGraded())) is None
