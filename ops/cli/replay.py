"""`mia replay`: take every step of a run again from what was recorded."""

import asyncio
import secrets
import sys
from typing import Annotated

import msgspec
from cyclopts import Parameter

from consumers.stages import STAGES
from ops.connect import connections
from ops.console import console
from ops.errors import Refused
from ops.replay import Replayed, replay
from ops.settings import load_settings
from storage.postgres.replay import read_recording

__all__ = ["again"]

_SHOWN = 20


def again(
    run: str,
    /,
    *,
    other_labels: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Take every step of a run again from what was recorded. No model is called.

    Every request and every event must come out byte for byte. Exit status 1: something differs.

    Args:
        run: The run's name.
        other_labels: Put random labels in place of the sealed ones: nothing but the judge's own
            requests and scores may change, or a label has leaked.
        as_json: Print JSON; also what a pipe gets.
    """
    found = asyncio.run(_replay(run, other_labels=other_labels))
    if as_json or not sys.stdout.isatty():
        print(msgspec.json.encode(found).decode())
    else:
        _print(found)
    if not found.same:
        sys.exit(1)


async def _replay(run: str, *, other_labels: bool) -> Replayed:
    try:
        recording = await read_recording(connections(load_settings()).dsn("mia_audit"), run)
    except LookupError as error:
        raise Refused(str(error), "") from error
    labels = {question: secrets.token_hex(8) for question in recording.questions}
    return replay(recording, STAGES, labels if other_labels else None)


def _print(found: Replayed) -> None:
    for difference in found.differences[:_SHOWN]:
        console().print(
            f"{difference.command} {difference.event}: {difference.what}", markup=False, style="red"
        )
    aside = f", {found.not_compared} of the judge's not compared" if found.not_compared else ""
    gone = f", {found.skipped} steps have erased payloads" if found.skipped else ""
    console().print(
        f"{found.steps} steps, {found.requests} requests{aside}{gone}: "
        f"{len(found.differences)} differences",
        markup=False,
    )
