"""Malformed records of every kind that we could think of, each with bytes of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final
from uuid import UUID, uuid5

from mia_events import ids, topics
from ops.chaos.questions import SOURCE

__all__ = ["CANARY", "Bad", "invented", "malformed"]

#: No answer but ours says this; where it turns up, an answer has leaked.
CANARY: Final = "Quixalband"
_HUGE: Final = 300_000
_LONG: Final = 30_000
_DEEP: Final = 3_000


@dataclass(frozen=True)
class Bad:
    """One record: its topic, what is wrong with it, its bytes."""

    topic: str
    kind: str
    value: bytes


_Make = Callable[[str, int], bytes]


def malformed(run: str, count: int) -> Iterator[Bad]:
    """Return so many records for a run, one kind after the other."""
    makers = cycle(
        [
            *((topics.QUESTION, kind, make) for kind, make in _QUESTIONS.items()),
            *((topics.FEEDBACK, kind, make) for kind, make in _LABELS.items()),
            *((name, kind, make) for kind, make in _COMMANDS.items() for name in _COMMAND_TOPICS),
        ]
    )
    for number, (topic, kind, make) in enumerate(islice(makers, count)):
        yield Bad(topic, kind, make(run, number))


def invented(run: UUID, count: int) -> Iterator[Bad]:
    """Return well-formed commands that the ledger knows nothing of, of known and unknown types."""
    for number in range(count):
        stream = uuid5(ids.NAMESPACE, f"invented {number}")
        type_ = ("question.opened", "question.teleported")[number % 2]
        envelope = {
            "id": str(uuid5(stream, "event")),
            "type": type_,
            "schema_version": 1,
            "run": str(run),
            "stream": str(stream),
            "seq": 2,
            "occurred_at": "2026-01-01T00:00:00Z",
            "data": {"type": type_, "position": number, "generation": 0},
        }
        yield Bad(topics.PLAN, "invented command", json.dumps(envelope).encode())


def _question(run: str, number: int, /, **changes: object) -> bytes:
    fields = {
        "run": run,
        "question": f"What is wrong here, number {number}?",
        "id": f"bad {number}",
    }
    return json.dumps({**fields, **changes}).encode()


def _label(run: str, number: int, /, **changes: object) -> bytes:
    fields = {"run": run, "id": f"bad {number}", "label": f"label {number}"}
    return json.dumps({**fields, **changes}).encode()


def _without(record: bytes, name: str) -> bytes:
    fields = json.loads(record)
    del fields[name]
    return json.dumps(fields).encode()


def _carried(name: str) -> _Make:
    return lambda run, n: _question(run, n, **{name: f"{CANARY} {n}"})


_CARRIED: Final[dict[str, _Make]] = {
    "answer": _carried("answer"),
    "gold answer, oddly spelled": _carried("Gold-Answer"),
    "answers, in a list": lambda run, n: _question(run, n, answers=[f"{CANARY} {n}"]),
    "label, nested": lambda run, n: _question(run, n, meta={"deep": {"label": f"{CANARY} {n}"}}),
    "answer, in a passage": lambda run, n: _question(
        run, n, documents=[{"title": "t", "text": "x", "answer": f"{CANARY} {n}"}]
    ),
    "answer, given twice": lambda run, n: (
        b'{"answer": "' + f"{CANARY} {n}".encode() + b'", ' + _question(run, n, answer=None)[1:]
    ),
}

_QUESTIONS: Final[dict[str, _Make]] = {
    "empty": lambda _, n: b" " * n,
    "not JSON": lambda _, n: f"Where is it? ({n})".encode(),
    "cut off": lambda run, n: _question(run, n)[:-5],
    "not UTF-8": lambda run, n: _question(run, n)[:-2] + b"\xff\xfe" + str(n).encode() + b'"}',
    "a list": lambda _, n: json.dumps(["question", n]).encode(),
    "a number": lambda _, n: str(n).encode(),
    "nested too deeply": lambda _, n: b"[" * (_DEEP + n) + b"]" * (_DEEP + n),
    "question is a number": lambda run, n: _question(run, n, question=n),
    "question is missing": lambda run, n: _without(_question(run, n), "question"),
    "question is blank": lambda run, n: _question(run, n, question=" \n "),
    "question is too long": lambda run, n: _question(run, n, question="long " * _LONG),
    "NUL": lambda run, n: _question(run, n, question=f"What is \u0000 here, {n}?"),
    "huge": lambda run, n: _question(run, n, question="h" * _HUGE),
    "unknown run": lambda _, n: _question("nowhere", n),
    "run is a number": lambda run, n: _question(run, n, run=n),
    "run's name too long": lambda run, n: _question(run * 300, n),
    "source without row": lambda run, n: _question(run, n, source="s"),
    "id is a list": lambda run, n: _question(run, n, id=[n]),
    "id too long": lambda run, n: _question(run, n, id="i" * 300 + str(n)),
    "negative pass": lambda run, n: _question(run, n, **{"pass": -1}),
    "position is text": lambda run, n: _question(run, n, position="first"),
    "position is taken": lambda run, n: _question(run, n, position=0),
    "position too large": lambda run, n: _question(run, n, position=2**63 + n),
    "images are no list": lambda run, n: _question(run, n, images="cat.png"),
    "passage without text": lambda run, n: _question(run, n, documents=[{"title": "t"}]),
    **{f"carries its {kind}": make for kind, make in _CARRIED.items()},
}
_LABELS: Final[dict[str, _Make]] = {
    "label: not JSON": lambda _, n: f"Paris {n}".encode(),
    "label: missing": lambda run, n: _without(_label(run, n), "label"),
    "label: blank": lambda run, n: _label(run, n, label=" "),
    "label: wrong type": lambda run, n: _label(run, n, label=n),
    "label: of nothing": lambda run, n: _without(_label(run, n), "id"),
    "label: source without row": lambda run, n: _without(_label(run, n, source=SOURCE), "id"),
    "label: NUL": lambda run, n: _label(run, n, label=f"Par\u0000is {n}"),
    "label: unknown run": lambda _, n: _label("nowhere", n),
    "label: not UTF-8": lambda run, n: _label(run, n)[:-2] + b'\xff"}',
    "label: a list": lambda _, n: json.dumps([CANARY, n]).encode(),
}
_COMMAND_TOPICS: Final = (topics.PLAN, topics.EXECUTE, topics.JUDGE, topics.CONSOLIDATE)
_COMMANDS: Final[dict[str, _Make]] = {
    "command: not JSON": lambda _, n: f"go on {n}".encode(),
    "command: empty object": lambda _, n: b"{" + b" " * n + b"}",
    "command: stream is no UUID": lambda _, n: json.dumps({"stream": f"s{n}", "seq": 1}).encode(),
    "command: no version": lambda _, n: json.dumps(
        {"stream": str(uuid5(ids.NAMESPACE, str(n)))}
    ).encode(),
    "command: version is text": lambda _, n: json.dumps(
        {"stream": str(uuid5(ids.NAMESPACE, str(n))), "seq": "two"}
    ).encode(),
    "command: not UTF-8": lambda _, n: b"\xff\xfe" + str(n).encode(),
    "command: nested too deeply": lambda _, n: b"[" * (_DEEP + n),
}
