"""The command `mia`: a registry of the modules that bring the commands, and one way to refuse."""

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from ops.cli import (
    answers,
    archive,
    audit,
    backup,
    demo,
    memory,
    question,
    retrieval,
    run,
    stack,
    ways_in,
    worker,
)
from ops.errors import Refused

__all__ = ["app", "main"]

app = App(name="mia", help="An agent that learns while it is tested, on Kafka and Postgres.")
app.meta.group_parameters = app.group_parameters

# A module brings its commands with `register(app)`.
for _module in (
    demo,
    stack,
    run,
    ways_in,
    answers,
    question,
    memory,
    retrieval,
    audit,
    archive,
    backup,
    worker,
):
    _module.register(app)


@app.meta.default
def _with_settings(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Path | None = None,
    home: Path | None = None,
) -> None:
    """Run one command.

    Args:
        tokens: The command and its arguments.
        config: The settings file (default: MIA_CONFIG, then mia.toml here if there is one).
        home: The state folder (default: MIA_HOME, then the settings, then .mia here).
    """
    if config:
        os.environ["MIA_CONFIG"] = str(config.absolute())
    if home:
        os.environ["MIA_HOME"] = str(home.absolute())
    app(tokens)


def main() -> None:
    """Run `mia`; a refusal is one message on standard error and exit status 1."""
    try:
        app.meta()
    except Refused as refused:
        Console(stderr=True, soft_wrap=True).print(f"mia: {refused}", markup=False, style="red")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
