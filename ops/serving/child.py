"""The process that keeps the planner's servers level, as the stack's child."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ops.connect import Connections
from ops.embedded.ours import embedded_parts, our_child
from ops.embedded.spec import ChildSpec
from ops.embedded.state import Home
from ops.serving.config import serving_config
from ops.settings import Settings

__all__ = ["NAME", "report_file", "serving_child"]

NAME: Final = "policies"


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
    config = serving_config(settings, connections, ports, report)

    async def passed() -> None:
        if report.stat().st_mtime < began:
            raise ConnectionError("it has not made a pass yet")

    return replace(
        our_child(NAME, "ops.serving", config, passed),
        prepare=prepare,
        depends_on=embedded_parts(settings),  # Kafka too: whoever is first prepares the topics
    )
