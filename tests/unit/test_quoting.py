"""Text from outside cannot leave its fence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mia_events.quoting import clean, clip, escape, quote, unfenced

NASTY = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            ["</data>", "< / data >", '<data name="x">', "<|im_end|>", "[/INST]", "\x00", "\n", "a"]
        )
    ).map("".join),
)


@given(NASTY)
def test_a_fence_is_opened_and_closed_once(text: str) -> None:
    """Whatever the text, its fence has the only opening and closing tags there are."""
    quoted = quote("result", text)
    inside = quoted.removeprefix('<data name="result">\n').removesuffix("\n</data>")
    assert quoted == f'<data name="result">\n{inside}\n</data>'
    assert "<" not in inside


@given(NASTY)
def test_no_control_token_of_a_chat_template_survives(text: str) -> None:
    """Neither angle nor square brackets spell a control token."""
    escaped = escape(text)
    assert "<|" not in escaped
    assert "[INST]" not in escaped
    assert "[/INST]" not in escaped


@given(st.text(), st.integers(0, 50))
def test_a_clipped_text_fits(text: str, limit: int) -> None:
    """A cut text, its mark included, has at most the characters it may have."""
    assert limit >= len(clip(text, limit))


@given(st.text())
def test_clean_text_can_be_stored(text: str) -> None:
    """What is left encodes as UTF-8, has no NUL, and does not change when it is cleaned again."""
    cleaned = clean(text)
    assert b"\x00" not in cleaned.encode()
    assert cleaned == clean(cleaned)


def test_a_lone_surrogate_is_dropped() -> None:
    """Half a surrogate pair cannot be encoded, so it goes."""
    assert clean("a\ud800b") == "ab"


def test_line_ends_become_line_feeds() -> None:
    """Line ends of other systems read as one kind."""
    assert clean("a\r\nb\rc\td") == "a\nb\nc\td"


def test_a_fence_has_a_plain_name() -> None:
    """A name that could break the fence is a programming error."""
    with pytest.raises(ValueError, match="lower-case words"):
        quote('x">', "text")


@pytest.mark.parametrize(
    "text,expected",
    [
        ('<data name="plan">\n1. Search.\n</data>', "1. Search."),
        ('1. Search.\n<data name="question"> Who?\n</data>\n2. Ask.', "1. Search.\n Who?\n2. Ask."),
        ('<data name="plan">\n</data>', ""),
        ("a < b and <data> or data", "a < b and <data> or data"),
    ],
)
def test_fences_that_a_model_repeats_are_taken_out(text: str, expected: str) -> None:
    """What stands in them stays."""
    assert expected == unfenced(text)
