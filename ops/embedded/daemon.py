"""The supervisor process: `python -m ops.embedded.daemon`, which `mia up` starts detached.

It reads the same settings as any command (`MIA_CONFIG`, `MIA_HOME`), holds the state folder until
SIGTERM or SIGINT, and keeps its report current.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from ops.embedded import identity, report
from ops.embedded.external import check_external, external_endpoints
from ops.embedded.report import Report
from ops.embedded.spec import ChildStatus
from ops.embedded.stack import EmbeddedStack
from ops.embedded.state import Home
from ops.errors import Refused
from ops.models import missing_models, served_chat_model
from ops.processes import children
from ops.retrieval.child import check_service
from ops.settings import Settings, load_settings
from ops.training.config import missing_trainer

__all__ = ["Daemon", "main", "run_until_signal"]


def _missing(settings: Settings) -> tuple[str, ...]:
    return (*missing_models(settings), *missing_trainer(settings))


def _nothing(_: Report) -> None:
    return


class Daemon:
    """Runs the stack of these settings; `say` is told what one waits for."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self.home = Home(Path(settings.home).absolute())
        self._settings, self._say = settings, say
        self._report = Report(phase="starting", pid=os.getpid(), started=time.time())

    async def run(self, up: Callable[[Report], None] = _nothing) -> None:
        """Start, tell `up`, run until cancelled, stop.

        Raises:
            Refused: it could not start, or somebody else holds the folder.
        """
        with self.home.locked():
            identity.save(self.home.supervisor_file, os.getpid())
            last = {"phase": "down", "message": ""}
            try:
                await self._hold(up)
            except Refused as error:
                last = {"phase": "failed", "message": str(error)}
                raise
            finally:
                self._update(**last)

    async def _hold(self, up: Callable[[Report], None]) -> None:
        self._update()
        await check_external(self._settings)
        await check_service(self._settings)
        async with EmbeddedStack(
            self.home.root,
            self._settings.embedded,
            external=external_endpoints(self._settings),
            more=lambda where: children(self._settings, self.home, where),
            progress=self._progress,
            changed=self._changed,
            locked=True,
        ) as stack:
            where = stack.admin_dsn.rpartition("@")[2].partition("/")[0]
            self._update(
                phase="up",
                message="",
                notes=(*stack.notes, *_missing(self._settings)),
                bootstrap_servers=stack.bootstrap_servers,
                postgres=where,
                chat_model=served_chat_model(self._settings),
            )
            up(self._report)
            try:
                await stack.supervisor.watch()
            finally:
                self._update(phase="stopping")

    def _progress(self, message: str) -> None:
        self._say(message)
        self._update(message=message)

    def _changed(self, children: Sequence[ChildStatus]) -> None:
        self._update(children=tuple(children))

    def _update(self, **changes: object) -> None:
        self._report = msgspec.structs.replace(self._report, **changes)
        try:
            report.write(self.home, self._report)
        except OSError as error:  # a full disk: its children need their supervisor all the more
            with contextlib.suppress(OSError):
                self._say(f"the status cannot be written: {error}")


async def run_until_signal(daemon: Daemon, up: Callable[[Report], None] = _nothing) -> None:
    """Run a daemon until SIGTERM, SIGINT or SIGHUP; further ones do not hurry its stop."""
    running = asyncio.ensure_future(daemon.run(up))
    told: list[int] = []

    def stop(number: int) -> None:
        if not told:
            told.append(number)
            running.cancel()

    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(sig, stop, int(sig))
    try:
        await running
    except asyncio.CancelledError:
        if not told:
            raise


def _say(message: str) -> None:
    print(time.strftime("%F %T"), message)


def main() -> int:
    """Run until told to stop; returns the exit status."""
    # Probes ask until they are answered; what failed last is in the report.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    settings = load_settings()
    daemon = Daemon(settings, _say)
    try:
        asyncio.run(run_until_signal(daemon))
    except Refused as error:
        _say(str(error))
        return 1
    _say("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
