"""Kafka's jars: the files that `kafka.lock` names with their hashes, in a cache for all stacks."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ops.errors import Refused

__all__ = ["Jar", "Progress", "cache_folder", "class_path", "locked_jars", "missing"]

Progress = Callable[[str], None]
"""Is told, in a few words, what is going on."""

_THREADS = 8
_AIR_GAPPED = (
    "On a machine without a way out, set KAFKA_HOME to an unpacked Kafka 4.x, or "
    "embedded.kafka_jars to a folder with the files of ops/embedded/kafka.lock."
)


@dataclass(frozen=True)
class Jar:
    """One file: Maven coordinates and the SHA-256 that it must have."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.artifact}-{self.version}.jar"


def locked_jars() -> list[Jar]:
    """Read the lock."""
    lines = Path(__file__).with_name("kafka.lock").read_text().splitlines()
    return [_parse(line) for line in lines if line and not line.startswith("#")]


def _parse(line: str) -> Jar:
    coordinates, _, digest = line.partition(" sha256:")
    group, artifact, version = coordinates.split(":")
    return Jar(group, artifact, version, digest)


def cache_folder() -> Path:
    """Return the folder that all stacks of this user share."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mia-events" / "jars"


def class_path(folder: str, progress: Progress) -> str:
    """Return Kafka's class path, complete and checked; downloads what the cache lacks.

    `folder`, then the variable KAFKA_HOME, take the place of the cache and are never written to.

    Raises:
        Refused: a file is missing, has another hash, or cannot be had.
    """
    if folder:
        return _join(_given(Path(folder)))
    if home := os.environ.get("KAFKA_HOME"):
        return _join(_distribution(Path(home)))
    cache = cache_folder()
    wanted = missing(cache)
    if wanted:
        _download(wanted, cache, progress)
    return _join([cache / jar.name for jar in locked_jars()])


def missing(folder: Path) -> list[Jar]:
    """Return the jars that a folder lacks or holds with another hash (0.1 s for all 45)."""
    jars = locked_jars()
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(lambda jar: _digest(folder / jar.name), jars)
        return [jar for jar, digest in zip(jars, digests, strict=True) if digest != jar.sha256]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _given(folder: Path) -> list[Path]:
    wrong = missing(folder)
    if wrong:
        names = ", ".join(jar.name for jar in wrong[:3])
        raise Refused(
            f"{folder} lacks {len(wrong)} of Kafka's {len(locked_jars())} jars, or holds them with "
            f"another hash: {names}{', …' if wrong[3:] else ''}",
            "Copy the cache of a machine that has started once "
            f"({cache_folder()} there), or fetch the files of ops/embedded/kafka.lock.",
        )
    return [folder / jar.name for jar in locked_jars()]


def _distribution(home: Path) -> list[Path]:
    if not list(home.glob("libs/kafka_2.13-4.*.jar")):
        raise Refused(
            f"KAFKA_HOME={home} holds no Kafka 4.x (no libs/kafka_2.13-4.*.jar)",
            "Point it to an unpacked Kafka 4.x, or unset it to download the pinned jars.",
        )
    return sorted(home.glob("libs/*.jar"))


def _download(wanted: Sequence[Jar], cache: Path, progress: Progress) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    done = 0
    with _scratch(cache) as scratch, ThreadPoolExecutor(_THREADS) as pool:
        fetch = _fetcher(scratch, cache)
        for jar in pool.map(fetch, wanted):
            done += 1
            progress(f"Kafka: {done} of {len(wanted)} jars ({jar.artifact})")


@contextlib.contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    """Give a folder beside the cache's files, so that a rename puts a checked file in place."""
    path = Path(tempfile.mkdtemp(prefix=".download-", dir=cache))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _fetcher(scratch: Path, cache: Path) -> Callable[[Jar], Jar]:
    """Return what fetches one jar: this file alone, since resolving together mixes versions."""
    try:
        from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415 - only to download
    except ImportError as error:
        raise Refused(
            "the package jgo, which downloads Kafka, is not installed",
            f"Install this project's dependencies (`make install`). {_AIR_GAPPED}",
        ) from error
    maven = MavenContext(resolver=PythonResolver(), repo_cache=scratch, local_repos=[])

    def fetch(jar: Jar) -> Jar:
        component = maven.project(jar.group, jar.artifact).at_version(jar.version)
        try:
            path = component.artifact().resolve()
        except Exception as error:  # jgo raises RuntimeError, requests' errors and OSError
            raise Refused(
                f"cannot download {jar.name}: {error}", f"Is the network there? {_AIR_GAPPED}"
            ) from error
        if _digest(path) != jar.sha256:
            raise Refused(
                f"{jar.name} as downloaded has another hash than kafka.lock says",
                "Do not use it: find out what stands between this machine and Maven Central.",
            )
        path.replace(cache / jar.name)
        return jar

    return fetch


def _join(paths: Sequence[Path]) -> str:
    return os.pathsep.join(str(path) for path in paths)
