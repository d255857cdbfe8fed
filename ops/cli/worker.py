"""`mia worker`: one more worker process, in the foreground, against the running stack."""

import asyncio
import os
import socket
from pathlib import Path

from ops.connect import connections
from ops.embedded.state import Home
from ops.errors import Refused
from ops.models import endpoints, ports_in_use
from ops.processes import worker_config
from ops.retrieval.child import port_in_use, retrieval_service
from ops.settings import load_settings
from ops.worker import EVERYTHING, KNOWN, work

__all__ = ["worker"]


def worker(*stages: str) -> None:
    """Work until Ctrl-C; a second one ends it at once.

    Args:
        stages: plan, execute, tool-call, reflect, judge, consolidate, admit, sweep, train; default
            all but train, which takes an environment of its own.
    """
    unknown = sorted(set(stages) - set(KNOWN))
    if unknown:
        raise Refused(f"there is no stage {unknown[0]!r}", f"Stages: {', '.join(KNOWN)}.")
    settings = load_settings()
    home = Home(Path(settings.home).absolute())
    config = worker_config(
        settings,
        connections(settings),
        endpoints(settings, ports_in_use(home)),
        stages or EVERYTHING,
        retrieval_service(settings, port_in_use(home)),
    )
    asyncio.run(work(config, name=f"{socket.gethostname()}:{os.getpid()}"))
