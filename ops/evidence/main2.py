"""main-2: a benchmark streamed through real vLLM; its memories serve later questions."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ops.evidence.record import Claim, Evidence
from ops.evidence.streaming import RUN, SMALL, stream
from ops.evidence.user import User, user

__all__ = ["KEPT", "TITLE", "evidence"]

TITLE: Final = "HotpotQA streamed through real vLLM: each ends once, judged, memories serve others"


#: The whole run, for whoever wants to replay it.
KEPT: Final = Path(__file__).parents[2] / ".evidence" / "main-2.tar"


async def evidence(*, short: bool = False) -> Evidence:
    """Stream a hundred questions; the short form eight."""
    async with user(**SMALL) as someone:
        await someone.mia("up")
        streamed = await stream(someone, 8 if short else 100)
        report = await someone.told("report", RUN, "--json")
        if not short:
            await _keep(someone)
    memories = streamed.memories
    return Evidence(
        figures={"run": streamed, "report": report},
        claims=(
            streamed.ended_once(),
            Claim(f"each rollout was judged: {streamed.rollouts}", streamed.judged),
            Claim(f"{memories['written']} memories were written", memories["written"] > 0),
            Claim(
                f"{memories['used']} of them served {memories['questions_that_used']} questions",
                memories["questions_that_used"] > 0,
            ),
        ),
    )


async def _keep(someone: User) -> None:
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.unlink(missing_ok=True)
    await someone.mia("backup", str(KEPT))
