"""Long work that is told to end stops what it started."""

import signal
import subprocess
import sys

_WORK = """
import asyncio, sys
from ops.endings import run

async def work():
    print("working", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        print("stopped", flush=True)

sys.exit(run(work()))
"""


def test_sigterm_lets_work_stop_what_it_started() -> None:
    """The exit status is that of a program which the signal ended."""
    process = subprocess.Popen([sys.executable, "-c", _WORK], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert "working\n" == process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert "stopped\n" == process.stdout.readline()
    assert 128 + signal.SIGTERM == process.returncode


def test_work_that_ends_by_itself_says_what_it_found() -> None:
    """A status of its own."""
    program = (
        "import sys; from ops.endings import run\nasync def work(): return 3\nsys.exit(run(work()))"
    )
    assert 3 == subprocess.run([sys.executable, "-c", program], check=False).returncode
