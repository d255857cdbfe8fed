"""The script behind the model server: pure, diverse, and misbehaving on demand."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import prompts
from consumers.tools import TOOLS, arguments_of
from mia_events.grammar import Unparsable, action, action_schema, choice, choice_schema, one_word
from mia_events.quoting import quote
from tests.support.scripted_faults import Fate, Faults, fate_of
from tests.support.scripted_replies import Asked, gold_for, reply_to, tokens_of, vector_of

QUESTION = "Who wrote the novel Waverley in Edinburgh?"
TURN = action_schema({"search": {"query": {"type": "string"}}})


def asked(task: str, seed: int = 0, *blocks: tuple[str, str], **changes: object) -> Asked:
    """A request of a stage about `QUESTION`."""
    data = [quote("question", QUESTION), *(quote(name, text) for name, text in blocks)]
    messages = (("system", prompts.load()[task]), ("user", "\n\n".join(data)))
    request = Asked(model="m", messages=messages, seed=seed, malformed_rate=0.0)
    return replace(request, **changes)  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize(
    "task", ["plan", "replan", "route", "execute", "reflect", "judge", "compress"]
)
def test_a_reply_is_a_function_of_the_request(task: str) -> None:
    """The same request has the same reply; the stage is read from the prompt."""
    assert asked(task).task == task
    assert reply_to(asked(task, 3)) == reply_to(asked(task, 3))


def test_plans_differ_by_seed() -> None:
    """Rollouts of one question do not all plan the same."""
    assert len({reply_to(asked("plan", seed)) for seed in range(20)}) > 10


def test_executors_search_and_answer_in_different_numbers_of_turns() -> None:
    """From none to three searches, by plan; then an answer, right for about half."""
    turns: Counter[int] = Counter()
    right = 0
    for number in range(60):
        request = asked("execute", 0, ("plan", f"plan {number}"), schema=TURN)
        searches = 0
        while (read := action(reply_to(request), ["search"])).name == "search":
            searches += 1
            found = ("user", quote("result", f"[1] Page {searches}"))
            request = replace(request, messages=(*request.messages, ("assistant", "x"), found))
        turns[searches] += 1
        right += read.arguments["answer"] == gold_for(QUESTION)
    assert {0, 1, 2, 3} == set(turns)
    assert 15 < right < 50


def test_an_executor_that_may_only_answer_answers() -> None:
    """The grammar of the last turn is kept."""
    request = asked("execute", 0, ("plan", "plan 1"), schema=action_schema({}))
    assert action(reply_to(request), ()).name == "answer"


def test_reflections_are_words() -> None:
    """Some say yes, most say no."""
    words = Counter(one_word(reply_to(asked("reflect", s)), ("yes", "no")) for s in range(60))
    assert 5 < words["yes"] < 30


def test_the_router_picks_a_number_that_was_offered() -> None:
    """The choices are in the request's schema."""
    schema = choice_schema("plan", (1, 3))
    picked = {choice(reply_to(asked("route", s, schema=schema)), "plan", (1, 3)) for s in range(20)}
    assert {1, 3} == picked


@pytest.mark.parametrize(
    "prediction,grade",
    [
        (f"It was {gold_for(QUESTION).upper()}!", "correct"),
        ("someone else", "incorrect"),
        ("I do not know.", "not_attempted"),
    ],
)
def test_the_judge_compares_normalised_texts(prediction: str, grade: str) -> None:
    """It knows the gold answer only from the request."""
    request = asked("judge", 0, ("gold answer", gold_for(QUESTION)), ("prediction", prediction))
    assert f'{{"grade": "{grade}"}}' == reply_to(request)


def test_a_question_may_say_its_answer() -> None:
    """A test can choose the gold answer."""
    assert gold_for("Where? [[answer Paris]]") == "Paris"
    assert gold_for("Where?") == gold_for("Where? ")
    assert gold_for("Where?") != gold_for("When?")


def test_malformed_replies_do_not_parse() -> None:
    """What is scripted as malformed is refused by the stages' grammar."""
    for seed in range(40):
        with pytest.raises(Unparsable):
            turn(reply_to(asked("execute", seed, malformed_rate=1.0)))
        with pytest.raises(Unparsable):
            one_word(reply_to(asked("reflect", seed, malformed_rate=1.0)), ("yes", "no"))


@given(st.text())
def test_vectors_have_unit_length(text: str) -> None:
    """384 numbers, normalised, the same every time."""
    vector = vector_of(text)
    assert len(vector) == 384
    assert sum(value * value for value in vector) == pytest.approx(1.0, abs=1e-4)


def test_similar_texts_have_similar_vectors() -> None:
    """Shared words bring texts together."""
    first, near, far = map(vector_of, (QUESTION, QUESTION + " Really?", "Largest city of Peru"))
    assert _dot(first, near) > 0.8
    assert _dot(first, far) < 0.5


@given(st.text())
def test_tokens_make_up_the_text(text: str) -> None:
    """Nothing is lost between tokens."""
    assert text == "".join(piece for _, piece in tokens_of(text))


@pytest.mark.parametrize(
    "question,attempt,task,expected",
    [
        ("x [[status 500 x2]]", 2, "plan", Fate(status=500)),
        ("x [[status 500 x2]]", 3, "plan", Fate()),
        ("x [[status 429 plan]]", 9, "plan", Fate(status=429)),
        ("x [[status 429 plan]]", 1, "judge", Fate()),
        ("x [[sleep 0.5]] [[sleep 1 judge]]", 1, "judge", Fate(sleep_s=1.5)),
        ("x [[hang x1]] [[drop x2]]", 2, "plan", Fate(drop=True)),
        ("x [[malformed execute]]", 1, "execute", Fate(malformed=True)),
        ("x [[unknown]]", 1, "execute", Fate()),
    ],
)
def test_words_in_a_question_bring_faults(
    question: str, attempt: int, task: str, expected: Fate
) -> None:
    """By kind, number of attempts and stage."""
    assert expected == fate_of(Faults(), "digest", attempt, task, question)


def test_rates_are_kept_and_repeat() -> None:
    """Faults are drawn from the request's hash, the attempt and the seed, and from nothing else."""
    faults = Faults(error_rate=0.2, latency="exponential", latency_s=0.05)
    fates = [fate_of(faults, str(number), 1, "plan", "") for number in range(1_000)]
    assert 150 < sum(fate.status == 500 for fate in fates) < 250
    assert sum(fate.sleep_s for fate in fates) / 1_000 == pytest.approx(0.05, rel=0.2)
    assert fates == [fate_of(faults, str(number), 1, "plan", "") for number in range(1_000)]
    assert fates != [fate_of(faults, str(number), 2, "plan", "") for number in range(1_000)]


def turn(text: str) -> None:
    """Read a turn with its arguments, as the execute stage does."""
    read = action(text, ["search"])
    if read.name == "search":
        arguments_of(TOOLS["search"], json.dumps(read.arguments).encode())


def _dot(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))
