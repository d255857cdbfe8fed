"""`python -m ops.evidence core-2`: gather a piece of evidence and write it to `docs/evidence/`."""

import argparse
import importlib
import logging
import sys
from pathlib import Path
from typing import Any, Final

from ops.chaos.ground import ground
from ops.endings import run
from ops.errors import Refused
from ops.evidence.record import Evidence, path_of
from ops.evidence.report import record

#: Items that need a stack of their own, by the module that gathers them.
_ON_A_STACK: Final = {
    **{f"core-{number}": f"ops.evidence.core{number}" for number in range(1, 7)},
    "main-3": "ops.evidence.main3",
    "main-5": "ops.evidence.main5",
    "learn-3": "ops.evidence.learn3",
    "learn-4": "ops.evidence.learn4",
}
#: Items that bring what they need.
_BY_THEMSELVES: Final = {
    "core-7": "ops.bench",
    "core-8": "ops.evidence.core8",
    "core-9": "ops.evidence.core9",
    "main-1": "ops.evidence.main1",
    "learn-1": "ops.evidence.learn1",
    "learn-2": "ops.evidence.learn2",
    "learn-5": "ops.evidence.learn5",
    "learn-6": "ops.evidence.learn6",
    "learn-7": "ops.evidence.learn7",
    "learn-8": "ops.evidence.learn8",
    "main-2": "ops.evidence.main2",
    "main-4": "ops.evidence.main4",
    "main-6": "ops.evidence.main6",
    "main-7": "ops.evidence.main7",
    "main-8": "ops.evidence.main8",
}


def main() -> None:
    """Gather one item; exit 0 only if every claim holds."""
    options = _options()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # trials take the broker away
    try:
        sys.exit(run(_run(options)))
    except Refused as error:
        sys.exit(f"mia: {error}")


async def _run(options: argparse.Namespace) -> int:
    item: str = options.item
    module = importlib.import_module({**_ON_A_STACK, **_BY_THEMSELVES}[item])
    path = options.out or (None if options.short else path_of(item))

    async def gather() -> Evidence:
        if item in _ON_A_STACK:
            return await _on_a_stack(module, options)
        evidence: Evidence = await module.evidence(short=options.short)
        return evidence

    return await record(item, module.TITLE, f"make evidence ITEM={item}", gather, path)


async def _on_a_stack(module: Any, options: argparse.Namespace) -> Evidence:  # noqa: ANN401 - a module
    async with ground(keep=options.keep) as (stack, folder):
        evidence: Evidence = await module.evidence(stack, folder, short=options.short)
    return evidence


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ops.evidence", description=__doc__)
    parser.add_argument("item", choices=sorted({**_ON_A_STACK, **_BY_THEMSELVES}))
    parser.add_argument("--short", action="store_true", help="a small form; writes nothing")
    parser.add_argument("--keep", action="store_true", help="keep data and logs")
    parser.add_argument("--out", type=Path, help="write here instead of docs/evidence/")
    return parser.parse_args()


if __name__ == "__main__":
    main()
