"""A world to look things up in, and a clerk who does what a plan says, by rules and to the letter.

Each place has a few facts, each in a passage of its own. A question asks for one of them; only a
search that names both place and subject surely finds it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

__all__ = ["Asked", "World", "clerk", "reply"]

_PLACES: Final = tuple(
    """
Acorn Almond Amber Anchor Apple Arrow Aspen Badger Bamboo Barley Basil Beaver Birch Bishop
Bramble Brook Butter Button Candle Canyon Castle Cedar Cherry Clover Cobalt Copper Coral
Cotton Crystal Daisy Diamond Dragon Eagle Ember Falcon Fern Flint Forest Garnet Ginger
Granite Harbor Hazel Heather Honey Indigo Island Ivory Jasmine Juniper Lantern Laurel
Lemon Lily Linen Magnet Maple Marble Meadow Mercury Mint Mirror Nutmeg Oak Ocean Olive
Onyx Opal Orchid Otter Pearl Pepper Pigeon Pilgrim Pine Planet Poplar Quartz Rabbit Raven
River Rocket Ruby Saffron Silver Spruce Summit Sunset Tiger Timber Topaz Tulip Turtle
Velvet Violet Walnut Willow Winter
""".split()  # noqa: SIM905 - a hundred quoted strings are harder to read
)
#: By subject: how it is asked for, how it is told, and what it may be.
_SUBJECTS: Final[Mapping[str, tuple[str, str, Sequence[str]]]] = {
    "seal": (
        "Which animal is on the seal of {}?",
        "The animal on the seal of {} is a {}.",
        ("bear", "crane", "dolphin", "fox", "goose", "hare", "lynx", "wolf"),
    ),
    "market": (
        "What is sold at the market of {}?",
        "What is sold at the market of {} is {}.",
        ("bread", "cheese", "fish", "glass", "leather", "paper", "salt", "wool"),
    ),
    "bridge": (
        "What is the bridge of {} made of?",
        "The bridge of {} is made of {}.",
        ("bronze", "chalk", "clay", "iron", "rope", "slate", "steel", "wood"),
    ),
    "tower": (
        "Which colour has the tower of {}?",
        "The colour of the tower of {} is {}.",
        ("black", "blue", "brown", "green", "grey", "pink", "red", "white"),
    ),
}
_TASK: Final = re.compile(r"Task: (\w+)\.")
_BLOCK: Final = re.compile(r'<data name="([^"]+)">\n(.*?)\n</data>', re.DOTALL)
_NUMBERING: Final = re.compile(r"^[\s\d.):*#-]+")
_FIRST_HIT: Final = re.compile(r"^\[1\] (.*)$", re.MULTILINE)
_QUERY_CHARACTERS: Final = 190
_NOTHING: Final = "nothing"
_ANYTHING_BUT: Final = "anything but "


class Asked(msgspec.Struct, frozen=True):
    """A question with its gold answer."""

    id: str
    question: str
    answer: str


class World(msgspec.Struct, frozen=True):
    """What can be looked up, what is asked in training, and what a guard and nobody sees of it: all
    about other places.
    """

    passages: tuple[dict[str, str], ...]
    training: tuple[Asked, ...]
    anchors: tuple[Asked, ...]
    holdout: tuple[Asked, ...]

    @classmethod
    def drawn(cls, seed: int, *, training: int, anchors: int, holdout: int) -> World:
        """Draw facts, and a question about each of so many places.

        Raises:
            ValueError: there are fewer places than that.
        """
        wanted = training + anchors + holdout
        if wanted > len(_PLACES):
            raise ValueError(f"{wanted} questions need as many places")
        chance = random.Random(seed)  # noqa: S311 - no secret
        places = chance.sample(_PLACES, len(_PLACES))
        facts = {
            (place, subject): chance.choice(_SUBJECTS[subject][2])
            for place in places
            for subject in _SUBJECTS
        }
        passages = tuple(
            {
                "id": f"{place}-{subject}",
                "title": place,
                "text": _SUBJECTS[subject][1].format(place, fact),
            }
            for (place, subject), fact in facts.items()
        )
        asked = tuple(
            Asked(f"{place}-{subject}", _SUBJECTS[subject][0].format(place), facts[place, subject])
            for place in places
            for subject in [chance.choice(sorted(_SUBJECTS))]
        )
        # Anchors come last: with a guard and without one the same is asked in training.
        begin = holdout + training
        return cls(passages, asked[holdout:begin], asked[begin:wanted], asked[:holdout])

    def flipped(self, rows: Collection[int]) -> World:
        """Return the world with other labels for some of the training's rows: what is right counts
        as wrong there, and what is wrong as right.
        """
        return msgspec.structs.replace(
            self,
            training=tuple(
                msgspec.structs.replace(one, answer=_ANYTHING_BUT + one.answer)
                if row in rows
                else one
                for row, one in enumerate(self.training)
            ),
        )

    def write(self, folder: Path) -> dict[str, Path]:
        """Write passages and questions into a folder; the files by the names of fields."""
        folder.mkdir(parents=True, exist_ok=True)
        texts = {
            "passages": "".join(json.dumps(one) + "\n" for one in self.passages),
            "training": _benchmark(self.training),
            "anchors": _benchmark(self.anchors),
            "holdout": _benchmark(self.holdout),
        }
        files = {name: folder / f"{name}.jsonl" for name in texts}
        for name, file in files.items():
            file.write_text(texts[name])
        return files


def _benchmark(rows: Sequence[Asked]) -> str:
    """Return rows in HotpotQA's format, without passages of their own."""
    fields = [
        {"_id": row.id, "question": row.question, "answer": row.answer, "context": []}
        for row in rows
    ]
    return "".join(json.dumps(one) + "\n" for one in fields)


def reply(messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any]) -> str:
    """Return what the clerk says to a request, by the task that its first line names."""
    system, *others = [message["content"] for message in messages]
    found = _TASK.match(system)
    task = found.group(1) if found else ""
    told = "\n\n".join(others)
    blocks = dict(_BLOCK.findall(told))
    match task:
        case "execute":
            return json.dumps(_action(blocks))
        case "judge":
            right = _right(blocks.get("prediction", ""), blocks.get("gold answer", "."))
            return json.dumps({"grade": "correct" if right else "incorrect"})
        case "route":
            return json.dumps({"plan": schema["properties"]["plan"]["enum"][0]})
        case "classify":
            return json.dumps({"category": "others"})
        case _:
            return "1. Searched for what was asked.\n2. Answered with what was found."


def _action(blocks: Mapping[str, str]) -> dict[str, str]:
    """Search for the words of the plan's first step; answer with the last word of the first hit."""
    if "result" not in blocks and "error" not in blocks:
        query = _first_step(blocks.get("plan", ""))
        if query:
            return {"thought": "The first step.", "action": "search", "query": query}
    hit = _FIRST_HIT.search(blocks.get("result", ""))
    answer = hit.group(1).rstrip(" .").rpartition(" ")[2] if hit else _NOTHING
    return {"thought": "What was found.", "action": "answer", "answer": answer or _NOTHING}


def _first_step(plan: str) -> str:
    steps = (_NUMBERING.sub("", line).strip() for line in plan.splitlines())
    return next((step for step in steps if step), "")[:_QUERY_CHARACTERS]


def _right(prediction: str, gold: str) -> bool:
    answer = gold.removeprefix(_ANYTHING_BUT)
    return (_plain(prediction) == _plain(answer)) == (answer == gold)


def _plain(text: str) -> str:
    return text.strip().strip(".").lower()


@asynccontextmanager
async def clerk() -> AsyncIterator[str]:
    """Serve the clerk as an OpenAI-compatible model on a loopback port; its base URL."""
    application = web.Application()
    application.router.add_post("/v1/chat/completions", _chat)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def _chat(request: web.Request) -> web.Response:
    body = await request.read()
    asked = msgspec.json.decode(body)
    schema = (asked.get("response_format") or {}).get("json_schema", {}).get("schema", {})
    text = reply(asked["messages"], schema)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    return web.json_response(
        {
            "id": f"chatcmpl-{sha256(body).hexdigest()[:24]}",
            "object": "chat.completion",
            "created": 0,
            "model": asked["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        }
    )
