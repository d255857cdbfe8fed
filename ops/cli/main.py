"""The command `mia`: a table of what there is, imported when it is asked for."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

from cyclopts import App, Parameter

from ops.errors import Refused

__all__ = ["COMMANDS", "app", "application", "main"]

_HELP = """An agent that learns while it is tested, on Kafka and Postgres.

Exit status: 0 done; 1 refused or failed, with what to do; 2 (audit) cannot be told;
3 (status) not up; 4 (ask) the question failed; 5 (ask) no answer in time; 130 Ctrl-C."""

#: Where each command is, and what the list of commands says of it. Nothing is imported for others.
COMMANDS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "demo": ("demo:demo", "Answer ten questions with a real stack and real models."),
        "up": ("stack:up", "Start Kafka, Postgres, vLLM and the workers."),
        "down": ("stack:down", "Stop what `mia up` started; the data stay."),
        "status": ("stack:status", "Show what runs."),
        "logs": ("stack:show_logs", "Print the end of a log, or of all."),
        "reset": ("stack:reset", "Delete the state folder with everything in it."),
        "doctor": ("stack:examine", "Check what the embedded stack needs of this machine."),
        "ask": ("ask:ask", "Ask a question and watch how it is answered."),
        "publish": ("ways_in:publish", "Publish questions, one a line."),
        "ingest": (
            "ingest:ingest_file",
            "Seal the labels of a benchmark, then publish its questions.",
        ),
        "label": ("label:label", "Give the gold answer of a question."),
        "answers": (
            "answers:answers",
            "Print answers, failures, judgements and memories.",
        ),
        "report": ("report:report", "Sum a run up."),
        "events": ("events:events", "Look at the ledger's events."),
        "run": ("run:runs", "Make runs, look at them, and steer them."),
        "learn": ("learn:learn", "Watch what a run learns, batch by batch, until it ends."),
        "policy": (
            "policy:policies",
            "Look at planner versions, set which one serves, take one out.",
        ),
        "question": ("question:questions", "Act on single questions."),
        "memory": ("memory:memories", "Look at what was learned."),
        "retrieval": (
            "retrieval:retrieval",
            "Index and search the passages in retrieval.passages.",
        ),
        "audit": ("audit:audits", "Audit a run, or all."),
        "replay": ("replay:again", "Take every step of a run again from what was recorded."),
        "archive": ("archive:archive", "Write a finished run to files with their checksums."),
        "purge": ("archive:purge", "Remove a finished run from the database."),
        "erase": ("archive:erase", "Erase the payload of one event for good."),
        "backup": ("backup:backup", "Write the database and the artifacts of a running stack."),
        "restore": ("backup:restore", "Fill an empty stack from a backup."),
        "api": ("api:api", "Serve the HTTP interface until Ctrl-C."),
        "worker": ("worker:worker", "Work until Ctrl-C."),
    }
)


def application(chosen: str = "") -> App:
    """Return the program; of the command `chosen` the help is its own, whole one."""
    built = App(name="mia", help=_HELP, help_format="plaintext")
    built.meta.group_parameters = built.group_parameters
    for name, (path, summary) in COMMANDS.items():
        built.command(f"ops.cli.{path}", name=name, help=None if name == chosen else summary)

    @built.meta.default
    def with_settings(
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
        built(tokens)

    return built


app = application()


def _chosen(arguments: Sequence[str]) -> str:
    return next((word for word in arguments if word in COMMANDS), "")


def main() -> None:
    """Run `mia`; a refusal is one message on standard error and exit status 1."""
    try:
        application(_chosen(sys.argv[1:])).meta()
    except Refused as refused:
        from rich.console import Console  # noqa: PLC0415 - for this message alone

        Console(stderr=True, soft_wrap=True).print(f"mia: {refused}", markup=False, style="red")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
