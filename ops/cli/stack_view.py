"""How the stack's state is shown: words while one waits, a table, JSON."""

import sys
import time
from typing import Any, Self

import msgspec
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from ops.console import console
from ops.embedded import report
from ops.embedded.report import Report
from ops.embedded.state import Home

__all__ = ["Waiting", "facts", "in_words", "print_facts", "print_up"]

_MB = 2**20
_COLOURS = {"ready": "green", "up": "green", "stopped": "dim", "down": "dim"}


class Waiting:
    """Says what one waits for: a spinner on a terminal, else a line for each new message."""

    def __init__(self, first: str) -> None:
        self._last = first
        self._spinner = Status(first, console=console()) if sys.stdout.isatty() else None

    def __enter__(self) -> Self:
        if self._spinner:
            self._spinner.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._spinner:
            self._spinner.stop()

    def update(self, message: str) -> None:
        """Say something else."""
        if message in {self._last, ""}:
            return
        self._last = message
        if self._spinner:
            self._spinner.update(message)
        else:
            console().print(message, markup=False)


def in_words(said: Report) -> str:
    """Say in a line what a starting or stopping stack is doing."""
    if said.children:
        return ", ".join(f"{child.name} {child.doing or child.state}" for child in said.children)
    return said.message or said.phase


def facts(home: Home, said: Report) -> dict[str, Any]:
    """Return everything `mia status` knows, ready for JSON."""
    children = [
        {
            **msgspec.to_builtins(child),
            "memory_mb": report.memory_bytes(child.pid) // _MB if child.pid else 0,
        }
        for child in said.children
    ]
    folders = {
        "kafka": home.kafka,
        "postgres": home.postgres,
        "retrieval": home.retrieval,
        "logs": home.logs,
    }
    return {
        **msgspec.to_builtins(said),
        "home": str(home.root),
        "children": children,
        "disk_mb": {name: report.disk_bytes(path) // _MB for name, path in folders.items()},
    }


def print_facts(told: dict[str, Any]) -> None:
    """Print what `facts` returned for a reader."""
    out = console()
    since = f" since {time.strftime('%F %T', time.localtime(told['started']))}"
    phase = f"[{_COLOURS.get(told['phase'], 'yellow')}]{told['phase']}[/]"
    out.print(f"{phase}{since if told['pid'] else ''}  {told['home']}")
    for line in filter(None, (told["message"], *told["notes"])):
        out.print(f"  {line}", markup=False)
    if told["children"]:
        out.print(_table(told))
    disk = ", ".join(f"{name} {size} MB" for name, size in told["disk_mb"].items())
    out.print(f"disk: {disk}", markup=False)


def _table(told: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "state", "port", "pid", "memory", "restarts", "for", "last end"):
        table.add_column(heading)
    for child in told["children"]:
        state = escape(child["doing"]) or child["state"]
        table.add_row(
            child["name"],
            f"[{_COLOURS.get(child['state'], 'yellow')}]{state}[/]",
            str(child["port"] or ""),
            str(child["pid"] or ""),
            f"{child['memory_mb']} MB",
            str(child["restarts"]),
            _span(time.time() - child["since"]),
            child["why"],
        )
    return table


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def print_up(home: Home, said: Report, remark: str) -> None:
    """Print where everything is, once it is up."""
    out = console()
    for note in said.notes:
        out.print(note, style="yellow", markup=False)
    out.print(f"up ({remark})", markup=False)
    secret = home.secret("postgres-admin")
    password = f"  (user postgres, password in {secret})" if secret.exists() else ""
    out.print(f"  kafka     {said.bootstrap_servers}", markup=False)
    out.print(f"  postgres  {said.postgres}{password}", markup=False)
    api = said.child("api").port
    if api:
        token = home.secret("api-token")
        known = f"  (token in {token})" if token.exists() else ""
        out.print(f"  api       http://127.0.0.1:{api}{known}", markup=False)
