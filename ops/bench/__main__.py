"""`python -m ops.bench [runner|memory|retrieval]`: measure one part against its targets."""

import argparse
import importlib
import logging
import sys
from typing import Any, Final

import msgspec

from ops.endings import run
from ops.errors import Refused
from ops.evidence.record import machine
from ops.manifest import code_version

#: What can be measured, by the module that has `evidence` and the file of its `BASELINE`.
_GROUPS: Final = {
    "runner": "ops.bench",
    "memory": "ops.bench.memory",
    "retrieval": "ops.bench.retrieval",
}


def main() -> None:
    """Measure, print, compare with the targets; exit 0 only if all are met, or nothing could be
    measured here.
    """
    parser = argparse.ArgumentParser(prog="python -m ops.bench", description=__doc__)
    parser.add_argument("group", nargs="?", choices=sorted(_GROUPS), default="runner")
    parser.add_argument("--short", action="store_true", help="a small form; for CI")
    parser.add_argument("--baseline", action="store_true", help="write the group's baseline file")
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # topics are new at every scenario
    group = importlib.import_module(_GROUPS[options.group])
    try:
        found = run(group.evidence(short=options.short))
    except Refused as refused:
        sys.stderr.write(f"skipped: {refused}\n")
        return
    result: dict[str, Any] = {
        "commit": code_version(),
        "machine": machine(),
        "figures": found.figures,
        "claims": found.claims,
    }
    text = msgspec.json.format(msgspec.json.encode(result), indent=2)
    sys.stdout.write(text.decode() + "\n")
    if options.baseline:
        group.BASELINE.write_bytes(text + b"\n")
    sys.exit(0 if found.ok else 1)


if __name__ == "__main__":
    main()
