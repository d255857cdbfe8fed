"""Simulations on demand.

`python -m tests.simulation --seeds 5000` runs many and prints what fails, `--seed 17` runs one and
prints everything that happened to it.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.judge import Verdict, judge


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many (500)")
    parser.add_argument("--first", type=int, default=0, help="the first one (0)")
    parser.add_argument("--seed", type=int, help="only this one, with its trace")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (all)")
    parser.add_argument("--hurried", action="store_true", help="with deadlines, only this kind")
    return parser.parse_args()


def _verdicts(options: argparse.Namespace) -> Iterator[Verdict]:
    work = [
        (seed, hurried)
        for seed in range(options.first, options.first + options.seeds)
        for hurried in ((True,) if options.hurried else (False, True))
    ]
    with ProcessPoolExecutor(options.jobs) as pool:
        yield from pool.map(_judge, work, chunksize=8)


def _judge(work: tuple[int, bool]) -> Verdict:
    return judge(work[0], hurried=work[1])


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run what the command line asks for; 1 when anything is wrong."""
    options = _arguments()
    if options.seed is not None:
        verdict = judge(options.seed, hurried=options.hurried)
        _say(repr(verdict.scenario), *verdict.trace, *verdict.findings)
        _say(f"{verdict.digest} after {verdict.finished} virtual seconds")
        return bool(verdict.findings)
    started, count, bad = time.monotonic(), 0, 0
    for verdict in _verdicts(options):
        count += 1
        if verdict.findings:
            bad += 1
            _say(verdict.headline)
    _say(f"{count} simulations, {bad} with findings, {time.monotonic() - started:.0f} s")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
