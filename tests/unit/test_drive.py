"""The handler driver: ordinals, what is recorded when, repeats, and what it refuses."""

from collections.abc import Generator
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.runner.drive import INTENT, Drive
from mia_events.effect_codec import request_sha
from mia_events.effects import (
    Call,
    Embed,
    Label,
    Memories,
    Message,
    ModelReply,
    ReadLabel,
    ReadRollouts,
    Recall,
    Rollouts,
    Together,
    ToolResult,
    UseTool,
    Vectors,
    Wanted,
    ask,
    ask_all,
)
from mia_events.lifecycle import Kind
from mia_events.steps import Manifest, NonDeterminism, OutcomeUnknown, RunView, Step, Task
from schemas.events import RolloutOpened, RolloutPlanned
from storage.ports import EffectRow

_STREAM = UUID(int=7)
_EVENT = UUID(int=8)
_QUESTION = UUID(int=9)

Plan = Generator[Wanted, Any, Step]


def _task() -> Task:
    run = RunView(run_no=3, id=UUID(int=1), name="r", scope="s", manifest=Manifest())
    return Task(
        run=run,
        question=None,
        stream=_STREAM,
        kind=Kind.ROLLOUT,
        status="planning",
        version=1,
        event_id=_EVENT,
        history=(RolloutOpened(number=0, generation=0),),
    )


def _call(text: str) -> Call:
    return Call(role="planner", model="m", messages=(Message("user", text),), max_tokens=8)


def _tool(*, idempotent: bool) -> UseTool:
    return UseTool(tool="mail", arguments={"to": "x"}, question=_QUESTION, idempotent=idempotent)


def _reply(text: str) -> ModelReply:
    return ModelReply(text=text, model="m@1")


def _planned(text: str) -> Step:
    return Step(event=RolloutPlanned(plan=text))


def _two_calls(task: Task) -> Plan:
    first = yield from ask(_call("a"))
    second = yield from ask(_call(first.text))
    return _planned(first.text + second.text)


def _together(task: Task) -> Plan:
    replies = yield from ask_all((_call("a"), _call("b"), _call("c")))
    return _planned("".join(reply.text for reply in replies))


def _judging(task: Task) -> Plan:
    yield from ask(_call("before"))
    yield from ask(ReadLabel(question=_QUESTION))
    yield from ask(_call("after"))
    return _planned("done")


def _mailing(task: Task) -> Plan:
    result = yield from ask(_tool(idempotent=False))
    return _planned(result.text)


def test_a_step_with_one_call_records_it_with_the_step() -> None:
    """The last effect needs no commit of its own: it is taken with the step."""

    def one(task: Task) -> Plan:
        reply = yield from ask(_call("a"))
        return _planned(reply.text)

    drive = Drive(one, _task())
    drive.give(drive.asks[0], _reply("x"))
    assert _planned("x") == drive.step
    assert not drive.must_record
    assert [0] == [row.ordinal for row in drive.take()]
    assert () == drive.take()


def test_an_effect_is_recorded_before_the_next_is_performed() -> None:
    """Between two calls the first one's record is due."""
    drive = Drive(_two_calls, _task())
    drive.give(drive.asks[0], _reply("x"))
    assert drive.must_record
    (row,) = drive.take()
    drive.give(drive.asks[0], _reply("y"))
    expected = EffectRow(
        run_no=3,
        event_id=_EVENT,
        ordinal=0,
        kind="call",
        request_sha=request_sha(_call("a")),
        result=msgspec.json.encode(_reply("x")),
        policy="m@1",
    )
    assert expected == row
    assert [1] == [row.ordinal for row in drive.take()]


def test_recorded_effects_are_read_and_not_asked_for() -> None:
    """A repeat over every record reaches the step without performing anything."""
    rows = _perform_all(_two_calls)
    assert [0, 1] == [row.ordinal for row in rows]
    again = Drive(_two_calls, _task(), rows)
    assert () == again.asks
    assert _planned("<a><<a>>") == again.step
    assert () == again.take()


def test_members_of_together_have_consecutive_ordinals_and_come_back_in_order() -> None:
    """Replies may arrive in any order; each is due for its record while others are out."""
    drive = Drive(_together, _task())
    a, b, c = drive.asks
    assert (0, 1, 2) == (a.ordinal, b.ordinal, c.ordinal)
    drive.give(c, _reply("C"))
    assert drive.must_record
    assert [2] == [row.ordinal for row in drive.take()]
    assert (a, b) == drive.asks
    drive.give(a, _reply("A"))
    drive.give(b, _reply("B"))
    assert _planned("ABC") == drive.step
    assert [0, 1] == [row.ordinal for row in drive.take()]


def test_a_repeat_asks_only_for_the_members_that_left_no_record() -> None:
    """One recorded member of a group is not performed again."""
    drive = Drive(_together, _task())
    drive.give(drive.asks[1], _reply("B"))
    again = Drive(_together, _task(), drive.take())
    assert [0, 2] == [ask.ordinal for ask in again.asks]
    for waiting, text in zip(again.asks, "AC", strict=True):
        again.give(waiting, _reply(text))
    assert _planned("ABC") == again.step


def test_everything_after_the_label_is_sealed() -> None:
    """The label's reply and the later ones are marked, the earlier one is not."""
    assert [False, True, True] == [row.sealed for row in _perform_all(_judging)]


def test_another_request_than_the_recorded_one_is_refused() -> None:
    """A handler that asks for something else on a repeat is a NonDeterminism."""
    rows = _perform_all(_two_calls)

    def changed(task: Task) -> Plan:
        reply = yield from ask(_call("z"))
        return _planned(reply.text)

    with pytest.raises(NonDeterminism, match="effect 0 was call"):
        Drive(changed, _task(), rows)


def test_records_nobody_asks_for_are_refused() -> None:
    """A handler that ends before its recorded effects is a NonDeterminism."""

    def shorter(task: Task) -> Plan:
        reply = yield from ask(_call("a"))
        return _planned(reply.text)

    with pytest.raises(NonDeterminism, match="2 effects are recorded, the handler asked for 1"):
        Drive(shorter, _task(), _perform_all(_two_calls))


def test_an_unrepeatable_tool_declares_its_intent_first() -> None:
    """The intent takes the ordinal before the call and must be recorded before it is performed."""
    drive = Drive(_mailing, _task())
    assert drive.must_record
    (intent,) = drive.take()
    assert (0, INTENT) == (intent.ordinal, intent.kind)
    assert 1 == drive.asks[0].ordinal
    drive.give(drive.asks[0], ToolResult(ok=True, text="sent"))
    rows = (intent, *drive.take())
    assert _planned("sent") == Drive(_mailing, _task(), rows).step


def test_an_intent_without_a_result_is_an_unknown_outcome() -> None:
    """The call may have happened: it is not made again."""
    (intent,) = Drive(_mailing, _task()).take()
    with pytest.raises(OutcomeUnknown, match="'mail' was about to be called"):
        Drive(_mailing, _task(), (intent,))


def test_two_workers_never_sign_the_same_intent() -> None:
    """The second one's record differs from the first's: a conflict, and no second call."""
    first, second = [Drive(_mailing, _task(), claim=claim).take()[0] for claim in (1, 2)]
    assert first.result != second.result
    assert first.request_sha == second.request_sha


def test_a_repeatable_tool_needs_no_intent() -> None:
    """An idempotent tool is asked for at once."""

    def searching(task: Task) -> Plan:
        result = yield from ask(_tool(idempotent=True))
        return _planned(result.text)

    drive = Drive(searching, _task())
    assert not drive.must_record
    assert 0 == drive.asks[0].ordinal


def test_unrecorded_reads_are_performed_on_every_repeat_and_leave_no_row() -> None:
    """A read of what cannot change takes an ordinal, no record, and no commit before it."""

    def reading(task: Task) -> Plan:
        reply = yield from ask(_call("a"))
        rollouts = yield from ask(ReadRollouts(question=_QUESTION))
        return _planned(f"{reply.text}{len(rollouts.items)}")

    drive = Drive(reading, _task())
    drive.give(drive.asks[0], _reply("x"))
    assert not drive.must_record
    drive.give(drive.asks[0], Rollouts(()))
    rows = drive.take()
    assert [0] == [row.ordinal for row in rows]
    again = Drive(reading, _task(), rows)
    assert [1] == [ask.ordinal for ask in again.asks]
    again.give(again.asks[0], Rollouts(()))
    assert _planned("x0") == again.step


def test_the_scope_of_a_recall_is_not_part_of_the_request() -> None:
    """Runs with equal memories under other scopes ask equal questions; another vector does not."""
    one = Recall(scope="a", vector=(1.0, 0.0), generation=1)
    assert request_sha(one) == request_sha(msgspec.structs.replace(one, scope="b"))
    assert request_sha(one) != request_sha(msgspec.structs.replace(one, vector=(0.0, 1.0)))


def test_the_order_of_keys_does_not_change_a_request() -> None:
    """Arguments are hashed with sorted keys."""
    one = UseTool(tool="t", arguments={"a": 1, "b": 2}, question=_QUESTION)
    other = UseTool(tool="t", arguments={"b": 2, "a": 1}, question=_QUESTION)
    assert request_sha(one) == request_sha(other)


@pytest.mark.parametrize("wrong", ["text", None, ModelReply(text="x")])
def test_a_wrong_yield_teaches(wrong: object) -> None:
    """The message says what to yield, and whose command it was."""

    def confused(task: Task) -> Plan:
        yield wrong  # type: ignore[misc]  # the mistake under test
        return _planned("")

    with pytest.raises(TypeError, match=r"yields an effect or Together.*RolloutOpened"):
        Drive(confused, _task())


def test_a_wrong_return_teaches() -> None:
    """The message says what to return."""

    def confused(task: Task) -> Plan:
        yield from ask(_call("a"))
        return "done"  # type: ignore[return-value]  # the mistake under test

    drive = Drive(confused, _task())
    with pytest.raises(TypeError, match="a handler returns a Step, got str"):
        drive.give(drive.asks[0], _reply("x"))


def test_a_reply_of_another_kind_is_refused() -> None:
    """An embedding is no answer to a call."""
    drive = Drive(_two_calls, _task())
    with pytest.raises(TypeError, match="call must be answered with ModelReply, got Vectors"):
        drive.give(drive.asks[0], Vectors(()))


def test_a_reply_that_nobody_waits_for_is_refused() -> None:
    """The same ask cannot be answered twice."""
    drive = Drive(_together, _task())
    first = drive.asks[0]
    drive.give(first, _reply("A"))
    with pytest.raises(ValueError, match="ordinal 0"):
        drive.give(first, _reply("A"))


def test_an_empty_group_is_answered_at_once() -> None:
    """Together of nothing is an empty tuple."""

    def empty(task: Task) -> Plan:
        replies = yield Together(())
        return _planned(str(len(replies)))

    assert _planned("0") == Drive(empty, _task()).step


def _answer(effect: object) -> Any:
    match effect:
        case Call(messages=messages):
            return _reply(f"<{messages[0].content}>")
        case Embed(texts=texts):
            return Vectors(tuple((1.0, 0.0) for _ in texts))
        case ReadLabel():
            return Label("gold")
        case Recall():
            return Memories(())
    raise AssertionError(effect)


def _perform_all(handler: Any, recorded: tuple[EffectRow, ...] = ()) -> tuple[EffectRow, ...]:
    """Run a handler to its end; all rows, the recorded ones first."""
    rows = list(recorded)
    drive = Drive(handler, _task(), recorded)
    while drive.step is None:
        rows += drive.take()
        drive.give(drive.asks[0], _answer(drive.asks[0].effect))
    return (*rows, *drive.take())


@st.composite
def _programs(draw: st.DrawFn) -> list[int]:
    """Group sizes: 0 is a single effect, n is Together of n."""
    return draw(st.lists(st.integers(0, 4), max_size=6))


@given(_programs(), st.data())
def test_a_crash_at_any_point_repeats_nothing_that_was_recorded(
    program: list[int], data: st.DataObject
) -> None:
    """However often a handler is cut off, it ends in the same step and no record is made twice."""

    def handler(task: Task) -> Plan:
        seen = []
        for place, size in enumerate(program):
            if size == 0:
                reply = yield from ask(_call(str(place)))
                seen.append(reply.text)
            else:
                calls = tuple(_call(f"{place}.{member}") for member in range(size))
                seen += [reply.text for reply in (yield from ask_all(calls))]
        return _planned("".join(seen))

    undisturbed = Drive(handler, _task(), _perform_all(handler)).step
    rows: list[EffectRow] = []
    for _ in range(data.draw(st.integers(0, 5))):
        drive = Drive(handler, _task(), rows)
        for _ in range(data.draw(st.integers(0, 8))):
            if drive.step is not None:
                break
            waiting = data.draw(st.sampled_from(drive.asks))
            drive.give(waiting, _answer(waiting.effect))
            if drive.must_record:
                rows += drive.take()
        drive.close()
    all_rows = _perform_all(handler, tuple(rows))
    assert sorted({row.ordinal for row in all_rows}) == sorted(row.ordinal for row in all_rows)
    assert undisturbed == Drive(handler, _task(), all_rows).step
