"""`mia demo`: the whole way, on this machine, with nothing left running."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec

from ops import doctor
from ops.cli.stack_view import Waiting, in_words
from ops.cli.waiting import waiting_for
from ops.connected import connected, home_of
from ops.console import console
from ops.demo import Outcome, own_questions, show
from ops.embedded import report
from ops.embedded.daemon import Daemon
from ops.embedded.state import Home
from ops.embedded.vllm_server import CHAT_MODEL
from ops.endings import cancel_on_sigterm
from ops.environments import find_serve_environment, serve_folder
from ops.errors import Refused
from ops.models import needs_embedded, served_chat_model
from ops.settings import Settings, load_settings

__all__ = ["demo"]

_POLL_S = 0.3
_SMALL_MODEL = """
These answers are a 135-million-parameter model's: they show the mechanism, not the skill. For a
model that knows more, `mia demo --model ID` serves any Hugging Face id or checkpoint folder here;
or name any OpenAI-compatible endpoint, or another one for a single role:
  MIA_MODELS__DEFAULT__BASE_URL=http://HOST:PORT/v1 MIA_MODELS__DEFAULT__MODEL=NAME
  MIA_MODELS__EMBEDDER__BASE_URL=… MIA_MODELS__EMBEDDER__MODEL=…  (384 dimensions)"""
_NEXT = """
Next: `mia up` for a stack that stays, `mia publish FILE`, `mia answers -f`, `mia memory list`;
README.md has the rest. `mia demo --home FOLDER` keeps what this one leaves."""


def demo(
    file: Path | None = None, /, *, limit: int | None = None, rollouts: int = 2, model: str = ""
) -> None:
    """Answer ten questions with a real stack and real models, and show every step.

    The stack lives in a temporary folder and is stopped at the end; with --home it is kept there,
    and one that is up already is used as it is. Exit status 1: a question did not end exactly
    once, or the audit found a fault.

    Args:
        file: Questions in HotpotQA's format instead of the project's own.
        limit: How many of them.
        rollouts: Attempts per question.
        model: A Hugging Face id or a checkpoint folder that vLLM serves instead of the small one in
            the box.
    """
    if model:
        os.environ["MIA_EMBEDDED__MODEL"] = model
    with _home() as own:
        settings = load_settings()
        _require_models(settings)
        try:
            outcome = waiting_for(_demo(settings, file or own_questions(), limit, rollouts))
        except asyncio.CancelledError:
            sys.exit(128 + signal.SIGTERM)
        _print_verdict(outcome, settings, own)
    if not outcome.good:
        sys.exit(1)


async def _demo(settings: Settings, file: Path, limit: int | None, rollouts: int) -> Outcome:
    cancel_on_sigterm()  # whoever ends the demo must not leave its stack behind
    async with _stack(settings), connected("mia_admit") as at:
        return await show(at, file, limit, rollouts=rollouts)


@contextlib.contextmanager
def _home() -> Iterator[bool]:
    """Work in a temporary home unless one was chosen; yields whether it is temporary."""
    if os.environ.get("MIA_HOME"):
        yield False
        return
    folder = tempfile.mkdtemp(prefix="mia-demo-")
    os.environ["MIA_HOME"] = folder
    try:
        yield True
    finally:
        del os.environ["MIA_HOME"]
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def _stack(settings: Settings) -> AsyncIterator[None]:
    """Run the stack for as long as the block lasts, unless it is up already."""
    home = home_of(settings)
    if report.read(home).phase == "up":
        console().print(f"using the stack in {home.root}", markup=False)
        yield
        return
    doctor.require(settings)
    up = asyncio.Event()
    began = time.monotonic()
    daemon = asyncio.ensure_future(Daemon(settings, lambda _: None).run(lambda _: up.set()))
    try:
        await _until_up(home, daemon, up)
        console().print(f"up after {time.monotonic() - began:.0f} s\n")
        yield
    finally:
        daemon.cancel()
        with Waiting("stopping"):
            await asyncio.gather(daemon, return_exceptions=True)
        console().print("stopped; nothing is left running")


async def _until_up(home: Home, daemon: asyncio.Future[None], up: asyncio.Event) -> None:
    first = "starting Kafka, Postgres, vLLM and the workers; the first time takes a few minutes"
    console().print(first)
    with Waiting(first) as shown:
        while not up.is_set():
            shown.update(in_words(report.read(home)))
            await asyncio.wait({daemon}, timeout=_POLL_S)
            if daemon.done():
                daemon.result()


def _require_models(settings: Settings) -> None:
    if not needs_embedded(settings) or find_serve_environment(serve_folder()) is not None:
        return
    raise Refused(
        f"there is no environment with vLLM in {serve_folder()}",
        "Make it with `make env-serve`, or name an endpoint: MIA_MODELS__DEFAULT__BASE_URL.",
    )


def _print_verdict(outcome: Outcome, settings: Settings, temporary: object) -> None:
    out = console()
    run = outcome.report.run(outcome.run)
    out.print(
        f"\n{outcome.ended_once} of {outcome.expected} questions ended exactly once: "
        f"{run.answered} answered, {run.failed} failed with a stated reason. "
        f"{outcome.reused} used memories of earlier ones; {outcome.equal} answers equal the gold "
        "answer (whatever the judge, a model too, made of them). The first answer came "
        f"{outcome.first_answer_s:.0f} s after the questions.",
        markup=False,
        style="bold",
    )
    faults = sum(outcome.report.counts.values())
    said = "clean" if outcome.report.exit_code == 0 else f"{faults} faults"
    out.print(
        f"audit: {said}; {run.events} events, {run.effects} effects, digest {run.digest}",
        markup=False,
    )
    for fault in outcome.report.faults:
        out.print(f"  {msgspec.json.encode(fault).decode()}", markup=False, style="red")
    if needs_embedded(settings) and served_chat_model(settings) == CHAT_MODEL:
        out.print(_SMALL_MODEL, markup=False)
    kept = f"\nRun {outcome.run} is kept in {settings.home}."
    out.print(_NEXT if temporary else kept, markup=False)
