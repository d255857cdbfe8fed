"""What the embedded stack needs of a machine, checked before anything starts."""

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from ops.embedded import jars
from ops.embedded.java import find_java
from ops.embedded.postgres import binaries
from ops.embedded.state import Home, port_is_free
from ops.errors import Refused
from ops.retrieval.child import is_ours
from ops.retrieval.passages import find_corpus
from ops.settings import Settings

__all__ = ["Finding", "examine", "require"]

_DISK_GB = 2.0
_MEMORY_BESIDE_HEAP_MB = 700
_MB, _GB = 2**20, 2**30


@dataclass(frozen=True)
class Finding:
    """One prerequisite: what was found, and what to do where it does not do (else empty)."""

    name: str
    found: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """Tell whether the prerequisite is there."""
        return not self.remedy


def examine(settings: Settings) -> Iterator[Finding]:
    """Check one prerequisite after the other; nothing is changed and nothing downloaded."""
    home = Home(Path(settings.home).absolute())
    own_kafka = settings.kafka.mode == "embedded"
    own_postgres = settings.postgres.mode == "embedded"
    yield _system()
    yield _folder(home)
    yield _disk(home)
    yield _memory(settings)
    if own_kafka:
        yield _try("Java", lambda: str(find_java(settings.embedded.java).program))
        yield _try("Kafka", lambda: _jars(settings.embedded.kafka_jars))
    if own_postgres:
        yield _try("Postgres", lambda: str(binaries()))
    if is_ours(settings):
        yield _try("passages", lambda: _passages(settings))
    if not home.is_held():
        yield from _ports(settings, own_kafka=own_kafka, own_postgres=own_postgres)


def require(settings: Settings) -> None:
    """Refuse at the first prerequisite that is missing."""
    for finding in examine(settings):
        if not finding.ok:
            raise Refused(f"{finding.name}: {finding.found}", finding.remedy)


def _try(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, look())
    except Refused as refused:
        return Finding(name, refused.reason, refused.remedy)


def _system() -> Finding:
    if platform.system() in {"Linux", "Darwin"}:
        return Finding("system", platform.platform(terse=True))
    return Finding(
        "system",
        f"the embedded stack does not run on {platform.system()}",
        "Use Linux or macOS (or WSL), or set kafka.mode and postgres.mode to external.",
    )


def _folder(home: Home) -> Finding:
    place = _existing(home.root)
    if os.access(place, os.W_OK | os.X_OK):
        return Finding("state folder", str(home.root))
    return Finding(
        "state folder", f"{place} is closed to us", "Set MIA_HOME to a folder that you own."
    )


def _disk(home: Home) -> Finding:
    free = shutil.disk_usage(_existing(home.root)).free / _GB
    found = f"{free:.1f} GB free at {home.root}"
    if free >= _DISK_GB:
        return Finding("disk", found)
    return Finding(
        "disk", found, f"Free {_DISK_GB:.0f} GB there, or set MIA_HOME to a place that has them."
    )


def _memory(settings: Settings) -> Finding:
    own_kafka = settings.kafka.mode == "embedded"
    needed = _MEMORY_BESIDE_HEAP_MB + own_kafka * settings.embedded.kafka_heap_mb
    free = min(psutil.virtual_memory().available, _container_memory()) / _MB
    found = f"{free:.0f} MB available, {needed} wanted"
    if free >= needed:
        return Finding("memory", found)
    return Finding("memory", found, "End other programs, or lower embedded.kafka_heap_mb.")


def _container_memory() -> int:
    """Return what a container's limit leaves; without a limit a number that no machine reaches.

    Cached files do not count: the kernel drops them when memory is short.
    """
    group = Path("/sys/fs/cgroup")
    try:
        used = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int((group / "memory.max").read_text()) - int(used["anon"])
    except (OSError, ValueError, KeyError):
        return 2**62


def _jars(folder: str) -> str:
    if folder or os.environ.get("KAFKA_HOME"):
        jars.class_path(folder, lambda _: None)
        return folder or os.environ["KAFKA_HOME"]
    wanted = len(jars.missing(jars.cache_folder()))
    return f"{wanted} jars to download" if wanted else str(jars.cache_folder())


def _passages(settings: Settings) -> str:
    corpus = find_corpus(Path(settings.retrieval.passages).expanduser())
    return f"{corpus.root}: {len(corpus.files)} files, {corpus.bytes / _MB:.1f} MB"


def _ports(settings: Settings, *, own_kafka: bool, own_postgres: bool) -> Iterator[Finding]:
    names = own_kafka * ("kafka", "controller") + own_postgres * ("postgres",)
    for name in names:
        port = getattr(settings.embedded, f"{name}_port")
        if port == 0:
            continue
        if port_is_free(port):
            yield Finding(f"port of {name}", str(port))
        else:
            remedy = f"Free it, or set embedded.{name}_port to another (0 picks a free one)."
            yield Finding(f"port of {name}", f"{port} is taken", remedy)


def _existing(path: Path) -> Path:
    """Return the nearest folder on the way to `path` that is there."""
    return next(place for place in (path, *path.parents) if place.exists())
