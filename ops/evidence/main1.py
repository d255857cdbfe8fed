"""main-1: what a new user meets: `make demo` and `make test` on a clean clone."""

from __future__ import annotations

import re
from typing import Final

from ops.evidence.clone import Ran, clean_clone, run_in
from ops.evidence.record import Claim, Evidence

__all__ = ["TITLE", "evidence"]

TITLE: Final = "make demo and make test on a clean clone: up and answering within minutes"
_READY_S: Final = 90
_FIRST_ANSWER_S: Final = 45
_UP: Final = re.compile(r"^up after (\d+) s$")
_FIRST: Final = re.compile(r"The first answer came (\d+) s after the questions")
_ENDED: Final = re.compile(r"(\d+) of (\d+) questions ended exactly once")


async def evidence(*, short: bool = False) -> Evidence:
    """Clone, show, test; the short form tests the unit tier alone."""
    target = "unit" if short else "test"
    async with clean_clone() as folder:
        demo = await run_in(folder, ["make", "demo"], environment={"PYTHONUNBUFFERED": "1"})
        test = await run_in(folder, ["make", target])
    up, first = _seconds(demo, _UP), _seconds(demo, _FIRST)
    return Evidence(
        figures={
            "make demo": {**demo.told(), "up after s": up, "first answer after s": first},
            f"make {target}": test.told(),
        },
        claims=(
            Claim("make demo: every question ended exactly once, exit status 0", _whole(demo)),
            Claim(f"ready {up} s after the installation, at most {_READY_S}", 0 < up <= _READY_S),
            Claim(
                f"the first answer {first} s later, at most {_FIRST_ANSWER_S}",
                0 < first <= _FIRST_ANSWER_S,
            ),
            Claim(f"make {target} passes", test.status == 0),
        ),
    )


def _seconds(ran: Ran, pattern: re.Pattern[str]) -> int:
    """Return what the demo said of itself, 0 when it said nothing."""
    found = next((match for line in ran.lines if (match := pattern.search(line))), None)
    return int(found.group(1)) if found else 0


def _whole(ran: Ran) -> bool:
    found = _ENDED.search("\n".join(ran.lines))
    return ran.status == 0 and found is not None and found.group(1) == found.group(2)
