"""A command that took two workers down with it runs alone, in a process of its own."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import msgspec
import structlog

from consumers.runner.context import Lost
from mia_events.policies.lease import IsolationPolicy
from mia_events.steps import Late, Poison, Transient
from storage.ports import Claimed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumers.runner.attempt import Attempts
    from storage.ports import Ledger

_log = structlog.get_logger(__name__)


_AWAY_S = 0.5


class Verdict(msgspec.Struct, frozen=True):
    """How an isolated attempt ended, as its process reports it in its last line of output."""

    outcome: str
    message: str = ""
    delay_s: float = 0.0


class Isolation:
    """Runs one attempt in a child process, started by `command`; one child at a time, since a
    worker that died takes down every command it held, and most of them are innocent.

    The worker's configuration and the claim travel on the child's standard input, so that nothing
    of them is on a command line.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        command: Sequence[str],
        configuration: bytes,
        policy: IsolationPolicy,
    ) -> None:
        self._ledger = ledger
        self._command = tuple(command)
        self._configuration = configuration
        self._policy = policy
        self._one_at_a_time = asyncio.Semaphore()

    def needed(self, claimed: Claimed) -> bool:
        """Whether enough attempts died with their worker."""
        return self._policy.isolate(
            attempt=claimed.attempt,
            failures=claimed.failures,
            isolated_deaths=claimed.isolated_deaths,
        )

    async def run(self, claimed: Claimed, attempts: Attempts) -> None:
        """Run the attempt. Raises what the attempt raised; a death alone counts towards the dead
        letter, which follows at once after the last allowed one.
        """
        async with self._one_at_a_time:
            verdict = await self._in_child(claimed)
        if verdict is None:
            await self._died(claimed, attempts)
            return
        match verdict.outcome:
            case "done":
                return
            case "lost":
                raise Lost
            case "late":
                raise Late(verdict.message, verdict.delay_s)
            case "poison":
                raise Poison(verdict.message)
            case _:
                raise Transient(verdict.message)

    async def _died(self, claimed: Claimed, attempts: Attempts) -> None:
        deaths = claimed.isolated_deaths + 1
        _log.warning("an isolated attempt died", stream=str(claimed.stream), deaths=deaths)
        if self._policy.give_up(isolated_deaths=deaths):
            message = f"it ended its process {deaths} times when it ran alone"
            await attempts.bury(claimed, Poison(message))
            return
        await self._ledger.release(
            claimed.stream,
            claimed.claim,
            delay_s=self._policy.delay_s,
            failed=False,
            isolated_death=True,
        )
        raise Lost

    async def _in_child(self, claimed: Claimed) -> Verdict | None:
        """The verdict, or None when the child died. The child is ended when we are."""
        child = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=sys.stderr,
        )
        try:
            output, _ = await child.communicate(
                self._configuration + b"\n" + msgspec.json.encode(claimed) + b"\n"
            )
        except asyncio.CancelledError:
            child.kill()
            await child.wait()
            raise
        if child.returncode != 0 or not output.strip():
            return None
        return msgspec.json.decode(output.strip().splitlines()[-1], type=Verdict)


async def attempt_alone(claimed: Claimed, attempts: Attempts) -> Verdict:
    """What the child does: one attempt, its end as a verdict."""
    try:
        await attempts.run(claimed)
    except Lost:
        return Verdict("lost")
    except Late as error:
        return Verdict("late", str(error), error.delay_s)
    except ConnectionError as error:
        return away(error)
    except Poison as error:
        return Verdict("poison", f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 - reported to the parent, which classifies it
        return Verdict("failed", f"{type(error).__name__}: {error}")
    return Verdict("done")


def away(error: ConnectionError) -> Verdict:
    """What is said when the ledger does not answer: the command is not to blame."""
    return Verdict("late", str(error), _AWAY_S)


__all__ = ["Isolation", "Verdict", "attempt_alone", "away"]
