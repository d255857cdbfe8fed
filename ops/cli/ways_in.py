"""`mia publish`: questions from a file or standard input."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ops.cli.waiting import waiting_for
from ops.connect import connections
from ops.console import console, warn
from ops.defaults import DEFAULT_RUN
from ops.errors import unreadable
from ops.settings import load_settings
from producers.hotpot import source_of
from producers.outlet import KafkaOutlet
from producers.publish import BadLine, read_lines, send
from schemas.external import IncomingQuestion

__all__ = ["publish"]

_RunName = Annotated[str, Parameter(name=["--run", "-r"])]


def publish(file: Path = Path("-"), /, *, run: _RunName = DEFAULT_RUN) -> None:
    """Publish questions, one a line: plain text, or JSON {"question": ..., "id": ...}.

    The same id twice is one question. Lines of a file have their place in it for an id.

    Args:
        file: The file; - reads standard input.
        run: The run that answers them, where a line does not name its own.
    """
    bad: list[BadLine] = []
    count = waiting_for(_publish(_questions(file, run, bad)))
    console().print(f"published {count} questions; `mia answers -f` follows them", markup=False)
    if bad:
        sys.exit(1)


async def _publish(questions: Iterator[IncomingQuestion]) -> int:
    async with KafkaOutlet(connections(load_settings()).kafka) as outlet:
        return await send(outlet, questions)


def _questions(file: Path, run: str, bad: list[BadLine]) -> Iterator[IncomingQuestion]:
    standard = file == Path("-")
    try:
        lines = sys.stdin.buffer if standard else file.read_bytes().splitlines()
        source = "" if standard else source_of(file)
    except OSError as error:
        raise unreadable(file, error) from error
    for found in read_lines(lines, run, source):
        if isinstance(found, BadLine):
            bad.append(found)
            warn(f"line {found.number} was skipped: {found.reason}")
        else:
            yield found
