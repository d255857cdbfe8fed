"""One supervised child: started, watched, started again when it dies, stopped for good."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import IO

from ops.embedded import identity, logs
from ops.embedded.spec import ChildSpec, ChildStatus, NotYet, launch
from ops.embedded.state import Home
from ops.errors import Refused

__all__ = ["Child", "StartFailed"]

_POLL_S = 0.03
_PROBE_S = 10.0


class StartFailed(Refused):
    """A child never became ready: the message ends with the last lines that it wrote."""


class Child:
    """Runs a `ChildSpec` until `stop`; `ready` is set while the process answers requests."""

    def __init__(self, spec: ChildSpec, home: Home, changed: Callable[[], None]) -> None:
        self.spec = spec
        self.ready = asyncio.Event()
        self.log = home.logs / f"{spec.name}.log"
        self._pid_file = home.pid_file(spec.name)
        self._changed = changed
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = asyncio.Event()
        self._released = asyncio.Event()
        self._released.set()
        self._idle = asyncio.Event()
        self._refusal, self._doing = "", ""
        self._state, self._why, self._since, self._restarts = "waiting", "", time.time(), 0

    @property
    def pid(self) -> int:
        """The process id; 0 while there is no process."""
        return self._process.pid if self._process else 0

    def status(self) -> ChildStatus:
        """Say what the child is doing."""
        return ChildStatus(
            name=self.spec.name,
            state=self._state,
            pid=self.pid,
            port=self.spec.port,
            restarts=self._restarts,
            since=self._since,
            why=self._why,
            doing=self._doing,
        )

    async def supervise(self) -> None:
        """Keep the child alive until `stop`.

        Raises:
            StartFailed: it died, or did not answer in time, before it ever was ready.
        """
        deaths, was_ready = 0, False
        while not self._stopping.is_set():
            self._idle.set()
            await self._released.wait()
            if self._stopping.is_set():
                break
            self._idle.clear()
            began = time.monotonic()
            ready, why = await self._attempt(may_retry=was_ready)
            was_ready |= ready
            if self._stopping.is_set() or not self._released.is_set():
                continue
            if not was_ready:
                raise StartFailed(
                    f"{self.spec.name} did not start: {why}",
                    f"The end of {self.log}:\n{logs.tail(self.log, 15)}",
                )
            deaths = self.spec.restart.deaths(deaths, time.monotonic() - began)
            self._restarts += 1
            self._set("restarting", why)
            await _first(self._stopping, self.spec.restart.delay_s(deaths))
        self._idle.set()
        self._set("stopped")

    async def stop(self) -> None:
        """Stop the child for good; returns when it is gone."""
        self._stopping.set()
        self._released.set()
        await self._end()

    async def hold(self) -> None:
        """Stop the child and keep it down until `release`."""
        self._released.clear()
        await self._end()
        await self._idle.wait()
        self._set("held")

    def release(self) -> None:
        """Let a held child start again."""
        self._released.set()

    async def _attempt(self, *, may_retry: bool) -> tuple[bool, str]:
        """Live once: prepare, start, wait for the end. Returns (was ready, why it ended)."""
        try:
            self._set("starting")
            if self.spec.prepare:
                await self.spec.prepare()
            self._process = self._spawn()
        except (Refused, OSError) as error:
            if not may_retry:
                raise
            return False, str(error)
        try:
            return await self._watch(self._process)
        finally:
            self.ready.clear()
            self._process = None
            self._pid_file.unlink(missing_ok=True)

    def _spawn(self) -> subprocess.Popen[bytes]:
        spec = self.spec
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                launch(spec.argv, spec.account, spec.orphan_signal),
                stdin=subprocess.PIPE if spec.stdin else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=spec.cwd,
                env=spec.environment(),
                start_new_session=True,  # a Ctrl-C in the terminal is the supervisor's to handle
            )
        identity.save(self._pid_file, process.pid)
        if process.stdin is not None:
            _hand_over(process.stdin, spec.stdin)
        return process

    async def _watch(self, process: subprocess.Popen[bytes]) -> tuple[bool, str]:
        exited = asyncio.ensure_future(_exit(process))
        answered = asyncio.ensure_future(self._answers())
        try:
            await asyncio.wait(
                {exited, answered},
                timeout=self.spec.ready_patience_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            was_ready = answered.done() and not exited.done()
            if was_ready:
                self.ready.set()
                self._set("ready")
            elif not exited.done():
                _kill(process)
                await exited
                return False, f"no answer within {self.spec.ready_patience_s:.0f} s{self._refusal}"
            return was_ready, _words(await asyncio.shield(exited))
        finally:
            await _cancelled(answered)
            if not exited.done():  # we are cancelled: leave nothing behind
                _kill(process)
                await exited

    async def _answers(self) -> None:
        """Return once the child answers a real request."""
        while True:
            try:
                await asyncio.wait_for(self.spec.ready(), _PROBE_S)
                return
            except NotYet as progress:
                self._progress(str(progress))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is not ready yet
                self._refusal = f" ({type(error).__name__}: {error})"
            await asyncio.sleep(_POLL_S)

    async def _end(self) -> None:
        process = self._process
        if process is None:
            return
        self._set("stopping")
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self.spec.stop_signal)
        deadline = time.monotonic() + self.spec.stop_patience_s
        while self._process is process:
            if time.monotonic() > deadline:
                _kill(process)
            await asyncio.sleep(_POLL_S)

    def _progress(self, doing: str) -> None:
        if doing != self._doing:
            self._doing = doing
            self._changed()

    def _set(self, state: str, why: str | None = None) -> None:
        self._doing = ""
        self._state, self._since = state, time.time()
        self._why = self._why if why is None else why
        self._changed()


async def _cancelled(task: asyncio.Future[None]) -> None:
    """End a task that may turn its cancellation into an error of the client that it closes."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=1.0)
    if not task.cancelled():
        task.exception()


def _hand_over(pipe: IO[bytes], content: bytes) -> None:
    """Write what a pipe holds without waiting for its reader, who may be dead already."""
    with contextlib.suppress(BrokenPipeError), pipe:
        pipe.write(content)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the child and what it started: it leads its own process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _exit(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end without a thread; returns the exit status as `Popen` gives it."""
    if not hasattr(os, "pidfd_open"):  # not Linux: nothing to wait on without a thread
        while process.poll() is None:  # noqa: ASYNC110 - and nothing that would set an event
            await asyncio.sleep(_POLL_S)
        return process.wait()
    descriptor, gone = os.pidfd_open(process.pid), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return process.wait()


def _words(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


async def _first(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)
