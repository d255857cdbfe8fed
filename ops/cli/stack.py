"""`mia up|down|status|logs|reset|doctor`: the embedded stack from the command line."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape

from ops.cli.stack_view import Waiting, facts, in_words, print_facts, print_up
from ops.console import console
from ops.embedded import identity, logs, report
from ops.embedded.detach import start_detached
from ops.embedded.report import Report
from ops.embedded.state import Home
from ops.embedded.supervisor import end_leftovers
from ops.errors import Refused
from ops.settings import Settings, load_settings

__all__ = ["down", "examine", "reset", "show_logs", "status", "up"]

_POLL_S = 0.1
_STOP_PATIENCE_S = 60.0
_DOWN = 3


def up(
    *, foreground: bool = False, model: str = "", models: bool = True, workers: bool = True
) -> None:
    """Start Kafka, Postgres, vLLM and the workers, and wait until all answer.

    Args:
        foreground: Stay, and stop all on Ctrl-C.
        model: A Hugging Face id or a checkpoint folder that vLLM serves for chat instead of the
            small one in the box (as embedded.model).
        models: Start vLLM for roles without a base_url (as embedded.models).
        workers: Start worker processes (as embedded.workers).
    """
    if model:
        os.environ["MIA_EMBEDDED__MODEL"] = model
    if not models:
        os.environ["MIA_EMBEDDED__MODELS"] = "false"
    if not workers:
        os.environ["MIA_EMBEDDED__WORKERS"] = "false"
    settings = load_settings()
    home = _home(settings)
    if home.is_held() and not foreground:
        _wait_for_other(home)
        _refuse_another_model(model, settings)
        return
    from ops import doctor  # noqa: PLC0415 - its checks know every part of the stack

    doctor.require(settings)
    if foreground:
        _stay(settings, home)
    else:
        _start(home)


def _refuse_another_model(model: str, settings: Settings) -> None:
    from ops.models import served_chat_model  # noqa: PLC0415 - it knows the clients of models

    served = report.read(_home(settings)).chat_model
    if model and served != served_chat_model(settings):
        raise Refused(f"the stack that is up serves {served}", "Stop it first with `mia down`.")


def down() -> None:
    """Stop what `mia up` started; the data stay."""
    home = _home(load_settings())
    supervisor = identity.load(home.supervisor_file) if home.is_held() else None
    if supervisor is None:
        console().print(_tidy(home), markup=False)
        return
    os.kill(supervisor.pid, signal.SIGTERM)
    with Waiting("stopping") as waiting:
        deadline = time.monotonic() + _STOP_PATIENCE_S
        while identity.is_alive(supervisor) and time.monotonic() < deadline:
            waiting.update(in_words(report.read(home)))
            time.sleep(_POLL_S)
    killed = identity.end(supervisor, signal.SIGKILL, 5.0)
    _tidy(home)
    console().print("down (the supervisor did not stop and was killed)" if killed else "down")


def status(*, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """Show what runs; exit status 0 when it is up, 3 when it is not.

    Args:
        as_json: Print JSON; also what a pipe gets.
    """
    home = _home(load_settings())
    told = facts(home, report.read(home))
    if as_json or not sys.stdout.isatty():
        print(json.dumps(told))
    else:
        print_facts(told)
    if told["phase"] != "up":
        sys.exit(_DOWN)


def show_logs(
    name: str = "",
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    lines: Annotated[int, Parameter(name=["--lines", "-n"])] = 40,
) -> None:
    """Print the end of a log, or of all.

    Args:
        name: kafka, postgres, supervisor, …; all without one.
        follow: Go on as lines are written, until Ctrl-C.
        lines: How many lines of each to begin with.
    """
    folder = _home(load_settings()).logs
    there = {path.stem: path for path in sorted(folder.glob("*.log"))}
    if name and name not in there:
        known = ", ".join(there) or "none yet, nothing was started"
        raise Refused(f"there is no log {name!r}", f"There are: {known}.")
    chosen = {"": there[name]} if name else there
    ends = {label: path.stat().st_size for label, path in chosen.items()}
    for label, path in chosen.items():
        _print_lines(label, logs.tail(path, lines))
    while follow:
        time.sleep(_POLL_S)
        for label, path in chosen.items():
            ends[label], text = logs.since(path, ends[label])
            _print_lines(label, text)


def reset(*, yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative="")] = False) -> None:
    """Delete the state folder with everything in it: events, memories, logs.

    Args:
        yes: Do not ask.
    """
    home = _home(load_settings())
    if not home.root.exists():
        console().print(f"{home.root} does not exist: nothing to delete", markup=False)
        return
    if home.is_held():
        raise Refused(f"the stack in {home.root} is up", "Stop it first with `mia down`.")
    home.require_ours()
    if not yes and not _agreed(home):
        raise Refused("nothing was deleted", "Answer yes, or give --yes.")
    with home.locked():
        end_leftovers(home)
        shutil.rmtree(home.root)
    console().print(f"deleted {home.root}", markup=False)


def examine() -> None:
    """Check what the embedded stack needs of this machine, without starting anything."""
    from ops import doctor  # noqa: PLC0415 - its checks know every part of the stack

    findings = list(doctor.examine(load_settings()))
    for finding in findings:
        mark = "[green]ok     [/]" if finding.ok else "[red]missing[/]"
        console().print(
            mark,
            f"{finding.name:<14}",
            escape(". ".join(filter(None, (finding.found, finding.remedy)))),
        )
    if not all(finding.ok for finding in findings):
        sys.exit(1)


def _home(settings: Settings) -> Home:
    return Home(Path(settings.home).absolute())


def _stay(settings: Settings, home: Home) -> None:
    """Supervise in this process."""
    from ops.embedded.daemon import Daemon, run_until_signal  # noqa: PLC0415 - imports every stage

    daemon = Daemon(settings, lambda message: console().print(message, markup=False))
    asyncio.run(run_until_signal(daemon, lambda said: print_up(home, said, "Ctrl-C stops it")))


def _start(home: Home) -> None:
    began = time.monotonic()
    process = start_detached(home, os.environ)
    try:
        with Waiting("starting") as waiting:
            said = _until_up(home, process, waiting)
    except KeyboardInterrupt:
        console().print("stopping")
        process.terminate()
        process.wait()
        raise
    process.returncode = 0  # it outlives us on purpose
    print_up(home, said, f"in {time.monotonic() - began:.1f} s; `mia down` stops it")


def _until_up(home: Home, process: subprocess.Popen[bytes], waiting: Waiting) -> Report:
    while process.poll() is None:
        said = report.read(home)
        if said.pid == process.pid:
            if said.phase == "up":
                return said
            waiting.update(in_words(said))
        time.sleep(_POLL_S)
    said = report.read(home)
    if said.phase == "failed":
        raise Refused(said.message, "")
    tail = logs.tail(home.logs / "supervisor.log", 12)
    raise Refused("the supervisor ended at once", f"It said:\n{tail}")


def _wait_for_other(home: Home) -> None:
    """Another `mia up` was faster: wait until what it started is up."""
    said = report.read(home)
    with Waiting("starting") as waiting:
        while said.phase == "starting":
            waiting.update(in_words(said))
            time.sleep(_POLL_S)
            said = report.read(home)
    if said.phase != "up":
        raise Refused(f"the stack in {home.root} is {said.phase}", "Try again in a moment.")
    print_up(home, said, "it was up already; `mia down` stops it")


def _tidy(home: Home) -> str:
    """End what a killed supervisor left; returns what was done, in words."""
    if not home.root.exists():
        return f"nothing runs: {home.root} does not exist"
    if home.is_held():
        raise Refused(
            f"{home.root} is held by a program that `mia up` did not start", "Stop that program."
        )
    with home.locked():
        ended = end_leftovers(home)
        report.write(home, Report(phase="down"))
    names = ", ".join(ended)
    return f"ended what a killed supervisor had left: {names}" if ended else "nothing runs"


def _agreed(home: Home) -> bool:
    if not sys.stdin.isatty():
        return False
    question = f"Delete {home.root} with all events, memories and logs? [y/N] "
    return input(question).strip().lower() in {"y", "yes"}


def _print_lines(label: str, text: str) -> None:
    for line in text.splitlines():
        console().print(f"{label + ': ' if label else ''}{line}", markup=False)
