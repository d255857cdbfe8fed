"""Records from outside: what is accepted or refused, and that a refusal never tells a label."""

import json
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.external import (
    LABEL_FIELDS,
    IncomingLabel,
    IncomingQuestion,
    Paragraph,
    Refused,
    decode_label,
    decode_question,
    refuse_labels,
)

SECRET = "the-gold-answer-7f3a"
DEEP = 100_000

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def spelled(draw: st.DrawFn) -> str:
    """A label field's name in other letter cases and with other separators."""
    name = draw(st.sampled_from(sorted(LABEL_FIELDS)))
    separator = draw(st.sampled_from(["_", "-", " ", "", ".", "\u200b"]))
    cased = [draw(st.sampled_from([str.lower, str.upper]))(character) for character in name]
    return draw(st.sampled_from(["", " ", "$"])) + "".join(cased).replace("_", separator)


def everything_said(error: BaseException) -> str:
    """All that a log could print of an error: its message, its notes, its chain."""
    chain = [error]
    while (link := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(link)
    said = [*traceback.format_exception(error), *(str(vars(link)) for link in chain)]
    return "".join([*said, *(str(link.args) for link in chain)])


def test_the_smallest_question() -> None:
    """A text is enough; everything else has a default."""
    assert IncomingQuestion(question="Who?") == decode_question(b'{"question":"Who?"}')


def test_a_full_question() -> None:
    """Every documented field is read, and unknown ones are tolerated."""
    record = {
        "question": "Who?",
        "run": "r",
        "id": "i",
        "source": "s",
        "row": "7",
        "pass": 2,
        "position": 9,
        "images": ["sha256:00"],
        "documents": [{"title": "t", "text": "x", "n": 1}],
        "difficulty": {"level": [3]},
    }
    expected = IncomingQuestion(
        question="Who?",
        run="r",
        id="i",
        source="s",
        row="7",
        pass_no=2,
        position=9,
        images=("sha256:00",),
        documents=(Paragraph(title="t", text="x"),),
    )
    assert expected == decode_question(json.dumps(record).encode())


def test_a_label_by_id_and_by_row() -> None:
    """A label names its question as the question named itself; unknown fields are tolerated."""
    by_id = decode_label(b'{"label":"Joyce","id":"q1","judge":"me"}')
    by_row = decode_label(b'{"label":"Joyce","source":"s","row":"1"}')
    assert IncomingLabel(label="Joyce", id="q1") == by_id
    assert IncomingLabel(label="Joyce", source="s", row="1") == by_row


@pytest.mark.parametrize(
    "record,expected",
    [
        (b"", "not JSON"),
        (b"null", "Expected `object`, got `null`"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `question`"),
        (b'{"question":"a",}', "not JSON"),
        (b'\xef\xbb\xbf{"question":"a"}', "not JSON"),
        (b'{"question":"a","x":NaN}', "not a question: JSON is malformed"),
        (b'{"question":"\xff"}', "not UTF-8 (byte 13)"),
        (b'{"question":"a","x":"\xff"}', "not UTF-8 (byte 21)"),
        (b'{"question":"a","\\ud800":1}', "not a question"),
        (b'{"question":"\\ud800"}', "not a question"),
        (b'{"question":7}', "`$.question`"),
        (b'{"question":" \\n"}', "the question is empty"),
        (b'{"question":"a\\u0000b"}', "question has a NUL character"),
        (b'{"question":"a","run":"\\u0000"}', "run has a NUL character"),
        (b'{"question":"a","images":["\\u0000"]}', "images has a NUL character"),
        (
            b'{"question":"a","documents":[{"title":"","text":"\\u0000"}]}',
            "documents.text has a NUL character",
        ),
        (b'{"question":"a","documents":[{"title":"t"}]}', "`$.documents[0]`"),
        (b'{"question":"a","run":""}', "`$.run`"),
        (b'{"question":"a","row":"1"}', "send both or neither"),
        (b'{"question":"a","position":-1}', "`$.position`"),
        (b'{"question":"a","position":2147483648}', "`$.position`"),
        (b'{"question":"a","position":1e300}', "`$.position`"),
        (b'{"question":"a","position":' + b"9" * 10_000 + b"}", "`$.position`"),
        (b'{"question":"a","pass":-1}', "`$.pass`"),
        (b'{"question":"a","source":"s","row":"' + b"x" * 201 + b'"}', "`$.row`"),
        (b'{"question":"' + b"x" * 20_001 + b'"}', "`$.question`"),
        (b"[" * DEEP, "nested too deeply"),
        (b'{"question":"a","x":' + b"[" * DEEP + b"]" * DEEP + b"}", "nested too deeply"),
        (b'{"a":' * DEEP + b"1" + b"}" * DEEP, "nested too deeply"),
    ],
)
def test_what_is_no_question_is_refused_with_the_reason(record: bytes, expected: str) -> None:
    """Whatever bytes come, the answer is a refusal that says what is wrong with them."""
    with pytest.raises(Refused) as refused:
        decode_question(record)
    assert expected in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"null",
        b"[" * DEEP,
        b'{"label":"' + SECRET.encode() + b'\xff","id":"q"}',
        json.dumps({"label": {"value": SECRET}, "id": "q"}).encode(),
        json.dumps({"label": [SECRET], "id": "q"}).encode(),
        json.dumps({"label": SECRET}).encode(),
        json.dumps({"label": SECRET, "row": "1"}).encode(),
        json.dumps({"label": SECRET, "id": ""}).encode(),
        json.dumps({"label": SECRET, "id": "q", "pass": -1}).encode(),
        json.dumps({"label": SECRET + "\0", "id": "q"}).encode(),
        json.dumps({"label": " ", "id": "q"}).encode(),
        json.dumps({"label": SECRET, "id": "q"}).encode()[:-1],
    ],
)
def test_what_is_no_label_is_refused_without_quoting_it(record: bytes) -> None:
    """The refusal of a label has nothing of the label in it, or in what it was raised from."""
    with pytest.raises(Refused) as refused:
        decode_label(record)
    assert SECRET not in everything_said(refused.value)


@given(name=spelled(), path=st.lists(st.integers(0, 1), max_size=6), extra=json_values)
def test_a_label_field_is_refused_at_any_depth_in_any_spelling(
    name: str, path: list[int], extra: object
) -> None:
    """The refusal names the field by its usual name and never its value."""
    value: object = {name: SECRET, "other": extra}
    for step in path:
        value = [extra, value] if step else {"inner": value}
    record = json.dumps({"question": "Who?", "metadata": value}).encode()
    with pytest.raises(Refused, match="carries its answer in") as refused:
        decode_question(record)
    assert SECRET not in everything_said(refused.value)
    assert any(field in str(refused.value) for field in LABEL_FIELDS)


@pytest.mark.parametrize("shape", [SECRET, [SECRET], {"value": SECRET}, 42, None])
@pytest.mark.parametrize("field", sorted(LABEL_FIELDS))
def test_a_label_is_refused_whatever_its_value(field: str, shape: object) -> None:
    """An empty label field too: a data set with one is a data set with answers in it."""
    record = json.dumps({"question": "Who?", field: shape}).encode()
    with pytest.raises(
        Refused, match=rf"carries its answer in {field} \(value redacted\)"
    ) as refused:
        decode_question(record)
    assert SECRET not in everything_said(refused.value)


@pytest.mark.parametrize(
    "record",
    [
        '{"question":"Who?","x":{"answer":"SECRET"},"x":1}',
        '{"question":"Who?","\\u0061nswer":"SECRET"}',
        '{"question":"Who?","\\uff41nswer":"SECRET"}',
        '{"question":"Who?","documents":[{"title":"","text":"","Gold":"SECRET"}]}',
        '{"answer":"SECRET"}',
        '[{"answer":"SECRET"}]',
        '{"question":7,"answer":"SECRET"}',
    ],
)
def test_a_hidden_label_is_found(record: str) -> None:
    """Behind a repeated key, an escape, wide letters, or in what is no question anyway."""
    with pytest.raises(Refused, match="carries its answer in") as refused:
        decode_question(record.replace("SECRET", SECRET).encode())
    assert SECRET not in everything_said(refused.value)


@pytest.mark.parametrize(
    "tail", [b',"x":"\xff"}', b',"x":"\\ud800"}', b',"x":' + b"[" * DEEP + b"}", b",}", b""]
)
def test_bytes_that_cannot_be_cleared_of_labels_are_refused(tail: bytes) -> None:
    """A fault somewhere else in the record is no way past the check, and shows no label."""
    record = b'{"question":"Who?","answer":"' + SECRET.encode() + b'"' + tail
    with pytest.raises(Refused) as refused:
        decode_question(record)
    assert SECRET not in everything_said(refused.value)


def test_a_value_that_looks_like_a_label_field_is_no_label() -> None:
    """Only names are looked at: a question about gold is a question."""
    question = decode_question(b'{"question":"answer","id":"gold","answering":1,"x":["label"]}')
    assert IncomingQuestion(question="answer", id="gold") == question


@given(record=st.binary(max_size=80) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_refused(record: bytes) -> None:
    """Nothing that a stranger sends raises anything but a refusal."""
    outcomes = []
    for read in (decode_question, decode_label, refuse_labels):
        try:
            read(record)
            outcomes.append("read")
        except Refused as refused:
            outcomes.append("refused" if str(refused) else "refused without a reason")
    assert {"read", "refused"} >= set(outcomes)


@given(
    question=st.builds(
        IncomingQuestion,
        question=st.text(
            st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1
        ).filter(str.strip),
        position=st.none() | st.integers(0, 2**31 - 1),
        pass_no=st.integers(0, 2**31 - 1),
    )
)
def test_a_valid_question_is_read_as_it_was_sent(question: IncomingQuestion) -> None:
    """Any text in any script comes through unchanged."""
    sent = {"question": question.question, "pass": question.pass_no, "position": question.position}
    assert question == decode_question(json.dumps(sent).encode())
    assert question == decode_question(json.dumps(sent, ensure_ascii=False).encode())
