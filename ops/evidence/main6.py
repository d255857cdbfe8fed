"""main-6: how fast memory, retrieval and the whole pipeline are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ops.bench import memory, retrieval
from ops.evidence.ceiling import Ceiling, ceiling
from ops.evidence.record import Claim, Evidence
from ops.evidence.streaming import SMALL
from ops.evidence.user import user

__all__ = ["TITLE", "evidence"]

TITLE: Final = "retrieval from memory and passages, and the pipeline against vLLM's own ceiling"
_LEAST_SHARE: Final = 0.9
_CONCURRENCY: Final = 16


async def evidence(*, short: bool = False) -> Evidence:
    """Measure all three; the short form takes less of each."""
    remembered = await memory.evidence(short=short)
    async with user(**SMALL) as someone:
        await someone.mia("up")
        with _home(someone.home):  # its embedder makes the passages' vectors
            retrieved = await retrieval.evidence(short=short)
        pipeline = await ceiling(someone, 8 if short else 60, 4 if short else _CONCURRENCY)
    return Evidence(
        figures={
            "memory": remembered.figures,
            "retrieval": retrieved.figures,
            "pipeline": _told(pipeline),
        },
        claims=(*remembered.claims, *retrieved.claims, _judge(pipeline)),
    )


@contextmanager
def _home(folder: Path) -> Iterator[None]:
    """Let settings that are read here mean the stack in `folder`."""
    before = os.environ.get("MIA_HOME")
    os.environ["MIA_HOME"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MIA_HOME"]
        else:
            os.environ["MIA_HOME"] = before


def _told(found: Ceiling) -> dict[str, Any]:
    rates = {
        name: {
            "seconds": rate.seconds,
            "prompt tokens/s": round(rate.prompt_tokens / rate.seconds, 1),
            "generated tokens/s": round(rate.generated_per_s, 1),
            "tokens/s": round(rate.all_per_s, 1),
        }
        for name, rate in (("pipeline", found.pipeline), ("load generator", found.load_generator))
    }
    return {
        "questions": found.questions,
        "questions/s": found.questions_per_s,
        "chat requests": found.requests,
        "concurrency": found.concurrency,
        **rates,
        "share of all tokens/s": round(found.share, 3),
        "share of generated tokens/s": round(
            found.pipeline.generated_per_s / found.load_generator.generated_per_s, 3
        ),
    }


def _judge(found: Ceiling) -> Claim:
    return Claim(
        f"the pipeline reaches {found.share:.0%} of the tokens/s of a plain load generator, "
        f"at least {_LEAST_SHARE:.0%}",
        found.share >= _LEAST_SHARE,
    )
