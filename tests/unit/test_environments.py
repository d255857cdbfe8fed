"""Environments for foreign engines: what is found, what is refused, how they are started."""

import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from ops.embedded.vllm_server import CHAT_MODEL, ChatModel, chat_server, embedding_server
from ops.environments import (
    SERVE,
    TRAIN,
    ServeEnvironment,
    TorchBuild,
    ensure_serve_environment,
    ensure_train_environment,
    find_serve_environment,
    find_train_environment,
    serve_folder,
    train_folder,
)
from ops.errors import Refused
from ops.installing import run
from ops.locked import Stamp, digest_of_locks

_ENVIRONMENT = ServeEnvironment(Path("/e/bin/python"), Path("/e/chat"), Path("/e/embedding"))


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def said() -> list[str]:
    """What progress was told."""
    return []


def _finished(folder: Path, torch: TorchBuild) -> None:
    """Leave what a finished environment leaves: its stamp and the list of its models."""
    folder.mkdir(parents=True)
    locks = digest_of_locks(SERVE)
    stamp = Stamp(locks, str(folder), torch)
    (folder / ".stamp").write_bytes(msgspec.json.encode(stamp))
    (folder / "models.json").write_text('{"chat": "/m/chat", "embedding": "/m/embedding"}')


def test_a_finished_environment_is_used_as_it_is(tmp_path: Path, said: list[str]) -> None:
    """A second call installs nothing and says nothing."""
    _finished(tmp_path / "serve", TorchBuild())
    found = ensure_serve_environment(tmp_path / "serve", said.append)
    assert Path("/m/chat") == found.chat_model
    assert tmp_path / "serve" / "bin" / "python" == found.python
    assert [] == said


def test_another_build_of_torch_stays_when_none_is_named(tmp_path: Path, said: list[str]) -> None:
    """Who chose a small build once need not name it in every later command."""
    _finished(tmp_path / "serve", TorchBuild("torch==2.13.0+cpu", "an index"))
    ensure_serve_environment(tmp_path / "serve", said.append, TorchBuild())
    assert [] == said


def test_a_half_made_environment_does_not_count(tmp_path: Path) -> None:
    """A kill before the stamp leaves nothing that is taken for whole."""
    _finished(tmp_path / "serve", TorchBuild())
    (tmp_path / "serve" / ".stamp").unlink()
    assert None is find_serve_environment(tmp_path / "serve")


def test_a_folder_of_something_else_is_not_removed(tmp_path: Path, said: list[str]) -> None:
    """`--folder ~` is a slip, not an order to delete a home."""
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(Refused, match="no whole environment"):
        ensure_serve_environment(tmp_path, said.append)
    assert "three years" == (tmp_path / "thesis.txt").read_text()


def test_too_little_disk_is_refused_before_anything_is_downloaded(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal names what is needed, what there is, and what to do."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(1 << 40, 1 << 40, 3 << 29))
    with pytest.raises(Refused, match=r"needs 7 GiB .* there are 1\.5.*MIA_SERVE_ENV"):
        ensure_serve_environment(tmp_path / "serve", said.append)
    assert [] == said


def test_the_environment_lies_where_it_is_named(tmp_path: Path) -> None:
    """A variable moves six gigabytes to another disk."""
    assert tmp_path / "e" == serve_folder({"MIA_SERVE_ENV": str(tmp_path / "e")})
    assert ".venv-serve" == serve_folder({}).name


def test_the_train_environment_is_another(tmp_path: Path, said: list[str]) -> None:
    """It has its own folder, variable and pins, and is finished without models."""
    assert ".venv-train" == train_folder({}).name
    assert tmp_path / "e" == train_folder({"MIA_TRAIN_ENV": str(tmp_path / "e")})
    assert digest_of_locks(SERVE) != digest_of_locks(TRAIN)
    folder = tmp_path / "train"
    assert None is find_train_environment(folder)
    folder.mkdir()
    stamp = Stamp(digest_of_locks(TRAIN), str(folder), TorchBuild())
    (folder / ".stamp").write_bytes(msgspec.json.encode(stamp))
    assert folder / "bin" / "python" == ensure_train_environment(folder, said.append)
    assert [] == said


def test_a_failed_installer_is_quoted(said: list[str]) -> None:
    """The last lines that it wrote are the reason; the message says what to do."""
    program = "import sys; print('no such wheel', file=sys.stderr); sys.exit(3)"
    with pytest.raises(Refused, match="installing torch failed:\nno such wheel"):
        run("installing torch", [sys.executable, "-c", program], said.append)
    assert ["installing torch"] == said


def test_what_it_starts_imports_nothing_from_here(said: list[str]) -> None:
    """Our packages have plain names (`storage`, `schemas`) that a stranger may use too."""
    program = "import sys; print(sys.flags.safe_path, sys.dont_write_bytecode)"
    assert "True False\n" == run("asking", [sys.executable, "-c", program], said.append)


def test_the_key_of_a_server_stands_in_no_command_and_no_repr() -> None:
    """A command line is public to every account of a machine, and a repr ends up in a log."""
    server = chat_server(_ENVIRONMENT, 8000, Path("/c"), api_key="hidden")
    assert "hidden" == server.env()["VLLM_API_KEY"]
    assert "hidden" not in " ".join(server.argv())
    assert "hidden" not in repr(server)


def test_a_chat_server_listens_on_loopback_under_its_served_name() -> None:
    """Nothing outside the machine reaches it; requests name the model, not a folder."""
    server = chat_server(_ENVIRONMENT, 8000, Path("/c"))
    argv = server.argv()
    assert "127.0.0.1" == argv[argv.index("--host") + 1]
    assert CHAT_MODEL == argv[argv.index("--served-model-name") + 1]
    assert "/e/chat" == argv[argv.index("--model") + 1]
    assert "http://127.0.0.1:8000/v1" == server.base_url
    assert str(os.cpu_count()) == server.env()["OMP_NUM_THREADS"]


def test_eager_is_a_choice() -> None:
    """Compiling pays off in long runs only, so it is not the default."""
    compiled = ChatModel(model="/e/chat", name="chat", eager=False)
    assert "--enforce-eager" in chat_server(_ENVIRONMENT, 8000, Path("/c")).argv()
    assert "--enforce-eager" not in chat_server(_ENVIRONMENT, 1, Path("/c"), chat=compiled).argv()


def test_an_embedding_server_pools() -> None:
    """Without a runner named, vLLM would try to generate text with an encoder."""
    argv = embedding_server(_ENVIRONMENT, 8000, Path("/c")).argv()
    assert "pooling" == argv[argv.index("--runner") + 1]
    assert "float32" == argv[argv.index("--dtype") + 1]
