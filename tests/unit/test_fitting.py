"""A conversation is fitted into a context: oldest results first, and the same every time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.execute.fitting import Part, fitted
from mia_events.effects import Message
from mia_events.quoting import quote, shorten
from mia_events.steps import Poison
from mia_events.tokens import most_tokens


def result(text: str) -> Part:
    """A tool's result."""
    return Part(Message("user", quote("result", text)), "result")


def said(text: str) -> Part:
    """A turn of the model's own."""
    return Part(Message("assistant", text), "turn")


FIXED = Part(Message("system", "s" * 100))


def cost(messages: tuple[Message, ...]) -> int:
    """Their estimate."""
    return sum(most_tokens(message.content) for message in messages)


def test_what_fits_is_left_as_it_is() -> None:
    """Nothing is cut without need."""
    parts = [FIXED, said("a" * 900), result("b" * 900)]
    assert tuple(part.message for part in parts) == fitted(parts, 2_000)


def test_the_oldest_result_is_shortened_first() -> None:
    """The newest stays whole as long as it can, and no fence is opened by a cut."""
    parts = [FIXED, said("t" * 500), result("a" * 1_000), said("u" * 500), result("b" * 1_000)]
    messages = fitted(parts, 1_400)
    assert [part.message for part in (FIXED, parts[1])] == list(messages[:2])
    assert messages[2].content == f'<data name="result">\n{"a" * 194} [cut]\n</data>'
    assert (parts[3].message, parts[4].message) == messages[3:]


def test_turns_are_shortened_when_results_are_not_enough() -> None:
    """What the system said and the question stay whole."""
    parts = [FIXED, said("t" * 2_000), result("a" * 1_000), said("u" * 300)]
    messages = fitted(parts, 500)
    assert (200, 200 + 21 + 8, 300) == tuple(len(message.content) for message in messages[1:])
    assert FIXED.message == messages[0]


def test_what_cannot_be_made_to_fit_is_poison() -> None:
    """The error names the setting."""
    with pytest.raises(Poison, match=r"models\.executor\.context_tokens"):
        fitted([FIXED, result("x" * 900)], 50)


@given(
    st.lists(st.tuples(st.booleans(), st.text(max_size=600)), max_size=12),
    st.integers(min_value=200, max_value=3_000),
)
def test_the_budget_is_kept_or_refused(texts: list[tuple[bool, str]], budget: int) -> None:
    """Never exceeded; the same conversation is fitted the same."""
    parts = [FIXED, *(result(text) if is_result else said(text) for is_result, text in texts)]
    try:
        messages = fitted(parts, budget)
    except Poison:
        return
    assert cost(messages) <= budget
    assert messages == fitted(parts, budget)


def test_what_was_shortened_stays_so_while_the_conversation_grows() -> None:
    """The prefix cache serves what was sent before."""
    parts = [FIXED, *(result(f"{n}" * 800) for n in range(4))]
    before, after = fitted(parts, 1_500), fitted([*parts, said("x" * 40)], 1_500)
    assert before == after[: len(before)]


@pytest.mark.parametrize("text", ["plain", "números y más", "漢字かな交じり文", "🙂" * 5, "\ud800"])
def test_an_estimate_counts_bytes(text: str) -> None:
    """Half of them, and a little for the message itself."""
    size = len(text.encode("utf-8", "replace"))
    assert size / 2 + 8 <= most_tokens(text) <= size / 2 + 9


def test_every_fence_is_shortened_and_stays_whole() -> None:
    """Text around fences is left alone."""
    text = f"<tool_response>\n{quote('result', 'a' * 50)}\n</tool_response>"
    assert '<tool_response>\n<data name="result">\naaaa [cut]\n</data>\n</tool_response>' == (
        shorten(text, 10)
    )
    assert "x" * 50 == shorten("x" * 50, 10)
