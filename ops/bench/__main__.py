"""`python -m ops.bench`: steps per second and latency of the real runner."""

import argparse
import asyncio
import logging
import sys
from typing import Any

import msgspec

from ops.bench import BASELINE, evidence
from ops.evidence.record import machine
from ops.manifest import code_version


def main() -> None:
    """Measure, print, compare with the targets; exit 0 only if all are met."""
    parser = argparse.ArgumentParser(prog="python -m ops.bench", description=__doc__)
    parser.add_argument("--short", action="store_true", help="ratios of one run only; for CI")
    parser.add_argument("--baseline", action="store_true", help=f"write {BASELINE.name}")
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # topics are new at every scenario
    found = asyncio.run(evidence(short=options.short))
    result: dict[str, Any] = {
        "commit": code_version(),
        "machine": machine(),
        "figures": found.figures,
        "claims": found.claims,
    }
    text = msgspec.json.format(msgspec.json.encode(result), indent=2)
    sys.stdout.write(text.decode() + "\n")
    if options.baseline:
        BASELINE.write_bytes(text + b"\n")
    sys.exit(0 if found.ok else 1)


if __name__ == "__main__":
    main()
