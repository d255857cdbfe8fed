"""A cache of Kafka's linked classes: it halves the time and the CPU that a start of the JVM takes.

Java 25 and newer can record it. That is done once, by a trial broker in a scratch folder (about 10
s, no more than the first start without it takes longer); every stack of this user then starts with
it. It holds nothing but classes. Java checks that it fits its own build and the class path, and
ignores one that does not.
"""

import asyncio
import contextlib
import hashlib
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ops.embedded.jars import cache_folder
from ops.embedded.kafka import Kafka
from ops.embedded.spec import launch
from ops.embedded.state import Home, free_port
from ops.errors import Refused

__all__ = ["with_class_cache"]

_OLDEST = 25
_PATIENCE_S = 120.0


def with_class_cache(
    kafka: Kafka, progress: Callable[[str], None], note: Callable[[str], None]
) -> Kafka:
    """Return the broker with the options that use the cache, which is recorded on first use.

    A recording that fails only costs time: `note` is told, and the broker starts without.
    """
    if kafka.java.major < _OLDEST:
        return kafka
    key = hashlib.sha256(f"{kafka.java.build}\n{kafka.class_path}".encode()).hexdigest()[:16]
    cache = cache_folder().with_name("java") / f"kafka-{key}.aot"
    if not cache.exists():
        progress("preparing Kafka for fast starts (once)")
        try:
            _record(kafka, cache)
        except (OSError, TimeoutError, Refused, subprocess.TimeoutExpired) as error:
            note(f"Kafka will start slowly, its class cache could not be made: {error}")
            return kafka
    return replace(kafka, options=(f"-XX:AOTCache={cache}", "-Xlog:aot=off", "-Xlog:cds=off"))


def _record(kafka: Kafka, cache: Path) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".trial-", dir=cache.parent) as folder:
        home, draft = Home(Path(folder) / "home"), Path(folder) / "kafka.aot"
        ports = free_port(set()), free_port(set())
        options = (f"-XX:AOTCacheOutput={draft}", "-Xlog:aot*=off")
        _run(replace(kafka, home=home, port=ports[0], controller_port=ports[1], options=options))
        if not draft.exists() or Path(f"{draft}.config").exists():  # removed when it is complete
            raise OSError(f"Java wrote no cache; its output was\n{_output(home)}")
        draft.replace(cache)


def _run(trial: Kafka) -> None:
    """Run a broker until it has answered once, then end it, whereupon Java writes the cache."""
    trial.home.create()
    trial.set_up()
    spec = trial.spec()
    with (
        (trial.home.logs / "kafka.log").open("wb") as log,
        subprocess.Popen(
            launch(spec.argv, None), stdout=log, stderr=log, env=spec.environment()
        ) as process,
    ):
        try:
            asyncio.run(asyncio.wait_for(_answered(trial, process), _PATIENCE_S))
            process.terminate()
            process.wait(_PATIENCE_S)
        finally:
            process.kill()


async def _answered(trial: Kafka, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(Exception):
            return await trial.answers()
        await asyncio.sleep(0.1)
    raise OSError(f"the trial broker ended: {_output(trial.home)}")


def _output(home: Home) -> str:
    return (home.logs / "kafka.log").read_text(errors="replace")[-600:]
