"""What the scripted model says: a pure function of the request.

It is plausible, diverse, and now and then malformed. It knows which stage asks from the first line
of the system message (``Task: plan.``).

Every question has an invented right answer, `gold_for`; a test that wants graded answers gives it
as the label. The executor gives it about half the time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

from mia_events.effects import Call
from mia_events.scoring import normalise

DIMENSIONS = 384
_TASK = re.compile(r"Task: (\w+)\.")
_BLOCK = re.compile(r'<data name="([^"]+)">\n(.*?)\n</data>', re.DOTALL)
_OBSERVED = re.compile(r'<data name="(result|error)">')
_GIVEN_ANSWER = re.compile(r"\[\[answer ([^\]]+)\]\]")
_NAMES = re.compile(r"\b[A-Z][a-z]+(?: [A-Z][a-z]+)*\b")
_UNSURE = "I do not know"


@dataclass(frozen=True)
class Asked:
    """A chat request as the script reads it."""

    model: str
    messages: tuple[tuple[str, str], ...]
    seed: int | None = None
    temperature: float = 0.0
    schema: Mapping[str, Any] | None = None
    malformed_rate: float = 0.08

    @property
    def task(self) -> str:
        """The stage that asks, or ``other``."""
        found = _TASK.match(self.messages[0][1]) if self.messages else None
        return found.group(1) if found else "other"

    @property
    def user(self) -> str:
        """The first user message."""
        return next((content for role, content in self.messages if role == "user"), "")

    def block(self, name: str) -> str:
        """The first block of data called `name` in the first user message."""
        found = next((text for known, text in _BLOCK.findall(self.user) if known == name), "")
        return found.replace("&lt;", "<")

    def dice(self, *parts: object) -> float:
        """A number in [0, 1) that depends on the whole request and on `parts` only."""
        return _dice(self.model, self.messages, self.seed, self.temperature, *parts)

    def fixed(self, *parts: object) -> float:
        """A number in [0, 1) that stays the same while a conversation grows."""
        return _dice(self.model, self.messages[:2], *parts)


def asked_by(call: Call, *, malformed_rate: float = 0.08) -> Asked:
    """The request that a `Call` becomes, for use without HTTP."""
    return Asked(
        model=call.model,
        messages=tuple((message.role, message.content) for message in call.messages),
        seed=call.seed,
        temperature=call.temperature,
        schema=call.schema,
        malformed_rate=malformed_rate,
    )


def reply_to(asked: Asked) -> str:
    """The text of the completion."""
    if asked.task in _MALFORMED and _misbehaves(asked):
        return _pick(asked, "kind", _MALFORMED[asked.task])
    return _SCRIPTS.get(asked.task, _other)(asked)


def gold_for(question: str) -> str:
    """The right answer of a question: what it says (``[[answer Paris]]``), or an invention."""
    given = _GIVEN_ANSWER.search(question)
    if given:
        return given.group(1)
    digest = sha256(question.strip().encode()).hexdigest()
    return f"{_FIRST[int(digest[0], 16)]} {_LAST[int(digest[1], 16)]} {int(digest[2:6], 16)}"


@lru_cache(maxsize=65_536)
def vector_of(text: str) -> tuple[float, ...]:
    """A unit vector of 384 numbers from hashed words: texts that share words are close."""
    values = [0.0] * DIMENSIONS
    for word in normalise(text).split() or [""]:
        digest = sha256(word.encode()).digest()
        for place in range(0, 12, 3):
            index = int.from_bytes(digest[place : place + 2], "big") % DIMENSIONS
            values[index] += 1.0 if digest[place + 2] & 1 else -1.0
    length = sum(value * value for value in values) ** 0.5
    if length == 0.0:
        return (1.0, *values[1:])
    return tuple(round(value / length, 7) for value in values)


def tokens_of(text: str) -> tuple[tuple[int, str], ...]:
    """Invented token ids with their text; joined, the texts are `text` again."""
    pieces = re.findall(r"\s*\S+|\s+$", text)
    return tuple((_number(piece) % 49_000 + 10, piece) for piece in pieces)


def logprob_of(token: str, place: int) -> float:
    """An invented log-probability, in (-3, 0)."""
    return -((_number(f"{token}|{place}") % 2_999) + 1) / 1_000


def _misbehaves(asked: Asked) -> bool:
    # Some executors never get a turn right, so that rollouts end without an answer.
    stubborn = asked.task == "execute" and asked.fixed("stubborn") < asked.malformed_rate
    return stubborn or asked.dice("malformed") < asked.malformed_rate


def _plan(asked: Asked) -> str:
    words = _keywords(asked.block("question"))
    verbs = ("Search for", "Look up", "Find passages about")
    thinking = "<think>\nWhat is asked?\n</think>\n" if asked.dice("think") < 0.2 else ""
    count, start = 2 + int(asked.dice("steps") * 3), int(asked.dice("start") * 7)
    steps = [
        f"{n}. {_pick(asked, f'verb{n}', verbs)} {words[(n + start) % len(words)]}."
        for n in range(1, count)
    ]
    note = " as it worked before" if 'name="note"' in asked.user else ""
    return thinking + "\n".join([*steps, f"{count}. Compare what was found{note} and answer."])


def _replan(asked: Asked) -> str:
    word = _pick(asked, "word", _keywords(asked.block("question")))
    return f"1. Search again for {word} with other words.\n2. Answer from the best passage."


def _route(asked: Asked) -> str:
    allowed = (asked.schema or {}).get("properties", {}).get("plan", {}).get("enum", [0])
    return json.dumps({"plan": allowed[int(asked.dice("plan") * len(allowed))]})


def _execute(asked: Asked) -> str:
    may_search = '"search"' in json.dumps(asked.schema or {})
    searches = sum(bool(_OBSERVED.search(content)) for _, content in asked.messages)
    if may_search and searches < int(asked.fixed("searches") * 4):
        query = " ".join(dict.fromkeys(_keywords(asked.block("question"))[:4]))
        thought = f"Search number {searches + 1}."
        return json.dumps({"thought": thought, "action": "search", "query": query[:190]})
    return json.dumps({"thought": "Enough.", "action": "answer", "answer": _answer(asked)[:190]})


def _execute_tags(asked: Asked) -> str:
    last = asked.messages[-1][1]
    searches = sum('name="result"' in content for _, content in asked.messages)
    thinking = f"<think>Step {searches + 1}.</think>\n" if asked.dice("think") < 0.7 else ""
    if "no tool can be called" not in last and searches < int(asked.fixed("searches") * 4):
        query = " ".join(dict.fromkeys(_keywords(asked.block("question"))[:4]))[:190]
        called = json.dumps({"name": "search", "arguments": {"query": query}})
        return f"{thinking}<tool_call>{called}</tool_call>"
    return f"{thinking}<answer>{_answer(asked)[:190]}</answer>"


def _answer(asked: Asked) -> str:
    luck = asked.fixed("luck")
    if luck < 0.55:
        return gold_for(asked.block("question"))
    if luck < 0.65:
        return _UNSURE
    names = _NAMES.findall(" ".join(content for role, content in asked.messages if role == "user"))
    return _pick(asked, "span", names or ["something else"])


def _reflect(asked: Asked) -> str:
    return "yes" if asked.dice("again") < 0.25 else _pick(asked, "no", ("no", "No.", " no\n"))


def _judge(asked: Asked) -> str:
    gold, prediction = normalise(asked.block("gold answer")), normalise(asked.block("prediction"))
    if gold and gold in prediction:
        return '{"grade": "correct"}'
    unsure = prediction == normalise(_UNSURE)
    return '{"grade": "not_attempted"}' if unsure else '{"grade": "incorrect"}'


def _review(asked: Asked) -> str:
    found = (asked.schema or {}).get("properties", {}).get("finding", {}).get("enum", ["sound"])
    right = normalise(gold_for(asked.block("question"))) in normalise(asked.block("prediction"))
    good = right or asked.dice("good") < 0.2
    score = (6 if good else 1) + int(asked.dice("score") * 5)
    finding = found[0] if good else _pick(asked, "finding", found[1:] or found)
    return json.dumps({"reason": "It seems so.", "finding": finding, "score": score})


def _chair(asked: Asked) -> str:
    scores = [int(score) for score in re.findall(r", (\d+) of 10", asked.user)]
    weighed = sum(w * score for w, score in zip((5, 3, 2), scores, strict=False))
    return json.dumps({"grade": "correct" if weighed >= 60 else "incorrect"})


def _classify(asked: Asked) -> str:
    allowed = (asked.schema or {}).get("properties", {}).get("category", {}).get("enum", ["others"])
    return json.dumps({"category": allowed[int(asked.dice("category") * len(allowed))]})


def _compress(asked: Asked) -> str:
    words = _keywords(asked.block("question"))
    return f"1. Searched for {words[0]} to find the subject.\n2. Compared {words[-1]} and answered."


def _other(asked: Asked) -> str:
    return f"Reply number {int(asked.dice('other') * 1_000_000)}."


_SCRIPTS: Mapping[str, Callable[[Asked], str]] = {
    "plan": _plan,
    "replan": _replan,
    "route": _route,
    "execute": _execute,
    "execute_tags": _execute_tags,
    "reflect": _reflect,
    "judge": _judge,
    "review_logic": _review,
    "review_sourcing": _review,
    "review_validity": _review,
    "chair": _chair,
    "classify": _classify,
    "compress": _compress,
}
_MALFORMED: Mapping[str, Sequence[str]] = {
    "execute": (
        "I will search for it.",
        '{"thought": "cut off", "action": "sea',
        '{"action": "search", "query": "a"}{"action": "answer", "answer": "b"}',
        '{"thought": "", "action": "browse", "url": "about:blank"}',
        '{"thought": "", "action": "answer", "answer": 7}',
        '{"thought": "", "action": "search", "query": ["a", "b"]}',
        '{"thought": "\\u0000", "action": "answer", "answer": "\\u0000"}',
        "[" * 2_000,
        "",
    ),
    "execute_tags": (
        "I will search for it.",
        "<think>never closed",
        '<tool_call>{"name": "search", "arguments": {"query": "cut',
        '<tool_call>{"name": "browse", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "search", "arguments": {"query": 7}}</tool_call>',
        "<answer>one</answer><answer>two</answer>",
        "<answer> </answer>",
        "<answer>a\x00b</answer>",
        "",
    ),
    "route": ("the first", '{"plan": "0"}', '{"plan": true}', '{"plan": 99}', ""),
    "reflect": ("yes and no", "no, on second thought yes", "perhaps", ""),
    "judge": ("A", '{"grade": "CORRECT"}', '{"grade": "correct", "why": "so"}', "NOT VALID"),
    "review_logic": ("Score: 7", '{"score": 7}', '{"reason": "", "finding": "sound", "score": 11}'),
    "review_sourcing": ("", '{"reason": "", "finding": "correct", "score": 7}'),
    "review_validity": ('{"reason": 7, "finding": "answered", "score": 7}',),
    "chair": ("A", "NOT VALID", '{"grade": "not_attempted"}', ""),
    "classify": ("human", '{"category": "animal"}', ""),
    "compress": ("", "<think>never closed"),
    "plan": ("", "<think>never closed"),
    "replan": ("",),
}
_FIRST = ("Ada", "Bela", "Caro", "Dov", "Edda", "Finn", "Gaia", "Hugo", "Irma", "Jona", "Kaia",
          "Luka", "Mira", "Nils", "Olga", "Pavel")  # fmt: skip
_LAST = ("Abend", "Birke", "Cedar", "Dune", "Elster", "Farn", "Ginko", "Hafen", "Iris", "Jade",
         "Kiesel", "Linde", "Moor", "Nebel", "Otter", "Pinie")  # fmt: skip


def _keywords(question: str) -> list[str]:
    plain = re.sub(r"\[\[.*?\]\]", "", question)
    return re.findall(r"\w{4,}", plain) or re.findall(r"\w+", plain) or ["it"]


def _pick(asked: Asked, name: str, among: Sequence[str]) -> str:
    return among[int(asked.dice(name) * len(among))]


def _dice(*parts: object) -> float:
    return _number(json.dumps(parts)) / 2**64


def _number(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")


__all__ = [
    "DIMENSIONS",
    "Asked",
    "asked_by",
    "gold_for",
    "logprob_of",
    "reply_to",
    "tokens_of",
    "vector_of",
]
