"""What a supervised child is: how to start it, when it is ready, how to stop it."""

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

__all__ = ["Account", "ChildSpec", "ChildStatus", "NotYet", "RestartPolicy", "launch"]


class NotYet(Exception):
    """A child answered that it is not ready; the message says what it is doing, for the user."""


@dataclass(frozen=True)
class Account:
    """Whom a child runs as when the supervisor is root.

    `reach` lets it pass through folders that are closed to it, by one kept capability (Linux).
    """

    uid: int
    gid: int
    reach: bool = False


def launch(
    argv: Sequence[str], account: Account | None, orphan_signal: signal.Signals = signal.SIGKILL
) -> list[str]:
    """Return the command that runs `argv` as `account`, and ends it when this process dies."""
    who = (account.uid, account.gid, int(account.reach)) if account else (-1, -1, 0)
    script = str(Path(__file__).with_name("launch.py"))
    fixed = map(str, (os.getpid(), int(orphan_signal), *who))
    return [sys.executable, "-I", "-S", script, *fixed, "--", *argv]


@dataclass(frozen=True)
class RestartPolicy:
    """When a child that died is started again; the wait doubles with each death in a row."""

    first_s: float = 0.1
    longest_s: float = 10.0
    settled_s: float = 30.0

    def delay_s(self, deaths: int) -> float:
        """Return the wait before the next start after `deaths` deaths in a row (1 or more)."""
        return float(min(self.first_s * 2 ** min(deaths - 1, 30), self.longest_s))

    def deaths(self, before: int, lived_s: float) -> int:
        """Return the deaths in a row, this one included: a settled life starts the count again."""
        return 1 if lived_s >= self.settled_s else before + 1


@dataclass(frozen=True)
class ChildSpec:
    """One child process.

    `ready` makes a real request and raises until it is answered (`NotYet` is shown to the user);
    `prepare` runs before every
    start. No secret may stand in `argv`: pass a file, `env`, or `stdin`, the bytes (a few KiB at
    most) that it reads first. `orphan_signal` is what the kernel sends when the supervisor dies
    (Linux).
    """

    name: str
    argv: Sequence[str]
    ready: Callable[[], Awaitable[object]]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    prepare: Callable[[], Awaitable[None]] | None = None
    depends_on: tuple[str, ...] = ()
    port: int = 0
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGTERM
    stop_patience_s: float = 20.0
    ready_patience_s: float = 90.0
    restart: RestartPolicy = RestartPolicy()
    stdin: bytes = field(default=b"", repr=False)

    def environment(self) -> dict[str, str]:
        """Return the whole environment of the child: ours, and `env` over it."""
        return {**os.environ, **self.env}


class ChildStatus(msgspec.Struct, frozen=True):
    """What a child is doing: `state` is waiting, starting, ready, restarting, held or stopped.

    `since` is the UNIX time of the last change of state, `why` the last end, in words, `doing`
    what it says of itself while it starts.
    """

    name: str
    state: str
    pid: int = 0
    port: int = 0
    restarts: int = 0
    since: float = 0.0
    why: str = ""
    doing: str = ""
