"""The process that keeps the planner's servers level, as the stack's child."""

import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from ops.connect import Connections
from ops.embedded.spec import ChildSpec
from ops.embedded.state import Home
from ops.serving.config import serving_config
from ops.settings import Settings

__all__ = ["NAME", "report_file", "serving_child"]

NAME: Final = "policies"
_ROOT: Final = Path(__file__).parents[2]


def report_file(home: Home) -> Path:
    """Return where the last pass is told."""
    return home.run / "policies.json"


def serving_child(
    settings: Settings,
    home: Home,
    connections: Connections,
    ports: Mapping[str, int],
    prepare: Callable[[], Awaitable[None]],
) -> ChildSpec | None:
    """Return the child; None unless runs may train. Ready means that it has made a pass."""
    if not settings.training.enabled:
        return None
    report, began = report_file(home), time.time()
    own = {"kafka": settings.kafka.mode, "postgres": settings.postgres.mode}
    config = serving_config(settings, connections, ports, report)

    async def passed() -> None:
        if report.stat().st_mtime < began:
            raise ConnectionError("it has not made a pass yet")

    return ChildSpec(
        name=NAME,
        argv=[sys.executable, "-P", "-m", "ops.serving"],
        ready=passed,
        env={"PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1"},
        prepare=prepare,
        # Kafka too: whoever is first prepares the topics.
        depends_on=tuple(part for part, mode in own.items() if mode == "embedded"),
        stdin=msgspec.json.encode(config) + b"\n",
    )
