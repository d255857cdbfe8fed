"""The retrieval service as a process of its own, on a loopback port."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ops.retrieval.config import RetrievalConfig

__all__ = ["served"]

_ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def served(config: RetrievalConfig) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m ops.retrieval`; what it prints goes to its standard output."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ops.retrieval"],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(config) + b"\n")
        process.stdin.flush()
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)
