"""The tags of the published checkpoints are parsed as strictly as JSON."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mia_events.grammar import ANSWER_CHARACTERS, Action, Unparsable
from mia_events.tag_grammar import split_thought, tagged_action

SEARCH = '<tool_call>{"name": "search", "arguments": {"query": "Waverley"}}</tool_call>'
PIECES = st.sampled_from(
    ["<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>", SEARCH,
     "<tool_response>", "x", " ", "\n", "\x00", '{"name": "search"}']
)  # fmt: skip


@pytest.mark.parametrize(
    "text,thought",
    [
        (SEARCH, ""),
        (f"<think>first\nWaverley</think>\n{SEARCH}\n", "first\nWaverley"),
        (f"<think></think>{SEARCH}", ""),
        (f"<think>a <answer>no</answer></think>{SEARCH}", "a <answer>no</answer>"),
        (SEARCH.removesuffix("</tool_call>"), ""),
        (SEARCH.replace("</tool_call>", "\n"), ""),
    ],
)
def test_a_tool_call_is_read(text: str, thought: str) -> None:
    """With thinking or without; a server leaves out the tag that it stopped at."""
    expected = Action(thought=thought, name="search", arguments={"query": "Waverley"})
    assert expected == tagged_action(text, ["search"])


@pytest.mark.parametrize(
    "text",
    ["<answer> Walter Scott </answer>", "<think>t</think><answer>Walter Scott",
     "<answer>\nWalter Scott\n</answer>\n"],
)  # fmt: skip
def test_an_answer_is_read_without_white_space_around_it(text: str) -> None:
    """Its tags may be on lines of their own."""
    assert {"answer": "Walter Scott"} == tagged_action(text, ["search"]).arguments


@pytest.mark.parametrize(
    "text,told",
    [
        ("", "one <tool_call>"),
        ("Walter Scott", "one <tool_call>"),
        ("<think>never closed", "one <tool_call>"),
        (f"I will search. {SEARCH}", "one <tool_call>"),
        (f"{SEARCH} ok", "one <tool_call>"),
        (f"{SEARCH}{SEARCH}", "one <tool_call>"),
        ("<answer>a</answer><answer>b</answer>", "one <tool_call>"),
        (f"<answer>a{SEARCH}</answer>", "one <tool_call>"),
        ("<answer>a</tool_call>", "one <tool_call>"),
        (f"{SEARCH}<tool_response>invented</tool_response>", "one <tool_call>"),
        ("<answer> </answer>", "yours is empty"),
        ("<answer>a\x00b</answer>", "control characters"),
        (f"<answer>{'x' * (ANSWER_CHARACTERS + 1)}</answer>", "at most 1000 characters"),
        ("<tool_call>search Waverley</tool_call>", "not one JSON object"),
        ('<tool_call>{"name": "search"}</tool_call>', "and nothing else"),
        ('<tool_call>{"name": "search", "arguments": {}, "id": 1}</tool_call>', "nothing else"),
        ('<tool_call>{"name": "search", "arguments": "x"}</tool_call>', "nothing else"),
        ('<tool_call>{"name": ["search"], "arguments": {}}</tool_call>', "must be one of: search"),
        ('<tool_call>{"name": "browse", "arguments": {}}</tool_call>', "must be one of: search"),
        ('<tool_call>{"name": "search", "arguments": {"query": "\\u0000"}}</tool_call>', "control"),
        ('<tool_call>{"name": "search", "arguments": {"query": NaN}}</tool_call>', "JSON"),
    ],
)
def test_a_refusal_says_what_to_send(text: str, told: str) -> None:
    """Each kind of malformed reply has its own message."""
    with pytest.raises(Unparsable, match=told):
        tagged_action(text, ["search"])


def test_on_the_last_turn_no_tool_can_be_called() -> None:
    """The refusal says so."""
    with pytest.raises(Unparsable, match="answer"):
        tagged_action(SEARCH, ())


@given(st.lists(PIECES | st.text(max_size=5), max_size=8).map("".join))
def test_any_reply_is_an_action_or_a_refusal(text: str) -> None:
    """Nothing else is raised, and what is read can be written into an event."""
    try:
        read = tagged_action(text, ["search"])
    except Unparsable:
        return
    assert read.name in ("search", "answer")
    assert b"\\u0000" not in msgspec.json.encode([read.thought, read.arguments])


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "Zs"]), max_size=40))
def test_a_well_formed_call_is_read(query: str) -> None:
    """Arguments come back as they were written, if they hold no tag."""
    call = json.dumps({"name": "search", "arguments": {"query": query}})
    assert {"query": query} == tagged_action(f"<tool_call>{call}</tool_call>", ["search"]).arguments


def test_thinking_stands_at_the_start() -> None:
    """Elsewhere it is text."""
    assert ("why", "rest") == split_thought("\n<think> why </think>rest")
    assert ("", "x <think>why</think>") == split_thought("x <think>why</think>")
