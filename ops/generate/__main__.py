"""``python -m ops.generate [--check]``."""

from __future__ import annotations

import argparse
import sys

from ops.generate.outputs import ROOT, stale, write


def main(arguments: list[str]) -> int:
    """Write the generated files, or say which are out of date; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ops.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when stale")
    if parser.parse_args(arguments).check:
        return _check()
    for path in write(ROOT):
        print(f"written: {path}")
    return 0


def _check() -> int:
    problems = stale(ROOT)
    for path, problem in problems:
        print(f"{path}: {problem}; run `make docs` and commit it", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

__all__ = ["main"]
