"""`python -m ops.chaos --kills 50 --seed 1`: random kills, and whether anything came of them."""

import argparse
import logging
import sys
from pathlib import Path

from ops.chaos.ground import ground
from ops.chaos.survive import survive
from ops.chaos.trial import Load
from ops.endings import run
from ops.errors import Refused
from ops.evidence.core2 import judge_survival
from ops.evidence.record import Evidence, path_of
from ops.evidence.report import record


def main() -> None:
    """Run the trial, write `docs/evidence/chaos-KILLS-SEED.json`, exit 0 if everything held."""
    options = _options()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the broker's absence is the point
    name = f"chaos-{options.kills}-{options.seed}"
    try:
        sys.exit(run(_run(options, name)))
    except Refused as error:
        sys.exit(f"mia: {error}")


async def _run(options: argparse.Namespace, name: str) -> int:
    load = Load(questions=options.questions, lag=options.lag)

    async def gather() -> Evidence:
        async with ground(keep=options.keep) as (stack, folder):
            survival = await survive(
                stack,
                folder,
                load,
                kills=options.kills,
                seed=options.seed,
                workers=options.workers,
            )
            return judge_survival([survival], kills=options.kills)

    title = f"{options.kills} random kill -9 of workers, Kafka and Postgres, seed {options.seed}"
    command = f"make chaos KILLS={options.kills} SEED={options.seed}"
    return await record(name, title, command, gather, options.out or path_of(name))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ops.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--lag", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--keep", action="store_true", help="keep data and logs")
    parser.add_argument("--out", type=Path, help="write here instead of docs/evidence/")
    return parser.parse_args()


if __name__ == "__main__":
    main()
