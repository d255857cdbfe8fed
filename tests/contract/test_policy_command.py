"""`mia policy` over a registry in Postgres, and servers brought level with the same registry."""

import asyncio
import json
import os
import sys
import uuid
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import numpy as np
import pytest

from consumers.effects.model_client import Endpoint
from consumers.train.packing import pack
from mia_events.steps import Manifest, ModelChoice
from ops.cli.main import application
from ops.errors import Refused
from ops.evidence.adapters import random_adapter, safetensors
from ops.serving.config import ServingConfig, reconciler_of
from ops.serving.process import read_report
from ops.serving.weights import Weights
from schemas.envelope import encode_payload
from schemas.events import LearnerSealed
from storage.postgres.artifacts import PostgresArtifacts
from storage.postgres.ledger import PostgresLedger
from storage.postgres.migrate import migrate
from storage.postgres.roles import ROLES, ensure_roles
from storage.postgres.runs import PostgresRuns
from tests.support.lora_server import LoraServer, lora_server
from tests.support.stack import StackThread, fresh_database

_Q = "model.layers.0.self_attn.q_proj.weight"
_REGISTER = """
INSERT INTO policy (run_no, number, name, parent, batch, state, adapter_sha, optimizer_sha,
                    data_sha, record, event_id, at)
VALUES ($1, $2, $3, $4, $2, $5, $6, $6, $6, $7, $8, now())
"""


_LOG = """
INSERT INTO event (run_no, stream, seq, id, kind, type, at, body_sha, hash, body)
SELECT r.run_no, a.stream, 2, $1, 4, 'learner.sealed', now(), $3, $3, $2
FROM run AS r JOIN active AS a ON a.run_no = r.run_no AND a.kind = 4 WHERE r.name = 'r'
"""


_EXCHANGE = "UPDATE policy SET adapter_sha = $2 WHERE number = $1"
_NO_ADAPTERS = """
UPDATE run SET manifest = convert_to(jsonb_set(convert_from(manifest, 'UTF8')::jsonb,
                                               '{hyper,lora_rank}', '0')::text, 'UTF8')
"""


class _Lab:
    """A database with the run `r`, its versions, and the command `mia` on it."""

    def __init__(self, stack: StackThread, home: Path) -> None:
        self._stack, self.home = stack, home
        self.dsn = ""

    async def whole(self) -> None:
        """Make the versions whole checkpoints of a run that trains all weights."""
        connection = await asyncpg.connect(self.dsn)
        ledger = await PostgresLedger.open(self.dsn, sealed=True, size=1)
        try:
            store = PostgresArtifacts(ledger.pool, self.home / "artifacts")
            for number in (1, 2):
                tensors = safetensors({_Q: np.full((2, 2), number, dtype=np.float32)})
                sha = await store.put(pack({"config.json": b"{}", "model.safetensors": tensors}))
                await connection.execute(_EXCHANGE, number, bytes.fromhex(sha))
            await connection.execute(_NO_ADAPTERS)
        finally:
            await ledger.close()
            await connection.close()

    async def prepare(self) -> None:
        """Make it: version 1 was promoted and serves, version 2 was held back."""
        self.dsn = await fresh_database(self._stack.admin_dsn, f"policy_{uuid.uuid4().hex[:12]}")
        connection = await asyncpg.connect(self.dsn)
        ledger = await PostgresLedger.open(self.dsn, sealed=True, size=1)
        try:
            await ensure_roles(connection, dict.fromkeys(ROLES, "a-password"))
            await migrate(connection)
            manifest = Manifest(mode="batch", roles={"planner": ModelChoice(model="theirs")})
            run = await PostgresRuns(ledger.pool).create("r", manifest)
            store = PostgresArtifacts(ledger.pool, self.home / "artifacts")
            for number, state in ((1, "promoted"), (2, "held_back")):
                sha = await store.put(random_adapter(number))
                record = json.dumps({"job": {"seed": number, "model": "theirs"}}).encode()
                await connection.execute(
                    _REGISTER, run, number, f"planner@v{number}",
                    "base" if number == 1 else "planner@v1", state, bytes.fromhex(sha), record,
                    uuid.uuid4(),
                )  # fmt: skip
            sealed = LearnerSealed(
                number=0, generation=1, training="promoted", policy="planner@v1",
                candidate="planner@v1", reasons=("better",),
            )  # fmt: skip
            body = encode_payload(sealed)
            await connection.execute(_LOG, uuid.uuid4(), body, sha256(body).digest())
            await connection.execute("UPDATE run SET policy = 'planner@v1' WHERE name = 'r'")
        finally:
            await ledger.close()
            await connection.close()

    def role_dsn(self) -> str:
        return self.dsn.replace(self.dsn.split("//")[1].split("@")[0], "mia_worker:a-password")


@pytest.fixture
def lab(stack: StackThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Lab:
    """Settings that name an external Postgres: no stack of ours need be up."""
    lab = _Lab(stack, tmp_path / "home")
    stack.run(lab.prepare())
    (tmp_path / "password").write_text("a-password")
    (tmp_path / "admin").write_text(lab.dsn.split(":")[2].split("@")[0])
    host = lab.dsn.split("@")[1]
    names = dict.fromkeys(ROLES, f"{tmp_path}/password") | {"admin": f"{tmp_path}/admin"}
    files = ", ".join(f'{role} = "{path}"' for role, path in names.items())
    (tmp_path / "mia.toml").write_text(
        f'home = "{lab.home}"\n'
        f'[kafka]\nmode = "external"\nbootstrap_servers = "{stack.bootstrap_servers}"\n'
        f'[postgres]\nmode = "external"\ndsn = "postgresql://postgres@{host}"\n'
        f"password_files = {{{files}}}\n"
    )
    monkeypatch.setenv("MIA_CONFIG", str(tmp_path / "mia.toml"))
    monkeypatch.delenv("MIA_HOME", raising=False)
    return lab


def _mia(*arguments: str, command: str = "policy") -> None:
    application(command)([command, *arguments], result_action="return_value")


def _told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_versions_are_listed_shown_and_compared(
    lab: _Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which one serves, what each was made of, how far apart two are."""
    _mia("list", "r")
    assert [("planner@v1", "promoted", True), ("planner@v2", "held_back", False)] == [
        (line["name"], line["state"], line["serves"]) for line in _told(capsys)
    ]
    _mia("show", "r", "2")
    shown = json.loads(capsys.readouterr().out)
    assert ("planner@v1", {"job": {"seed": 2, "model": "theirs"}}) == (
        shown["parent"],
        shown["record"],
    )
    _mia("diff", "r", "1", "planner@v2")
    told = json.loads(capsys.readouterr().out)
    assert {"job.seed": [1, 2]} == told["record"]
    assert [_Q] == list(told["weights"]["farthest"])


def test_an_operator_promotes_and_rolls_back(lab: _Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """What serves changes, and what was gone back from is marked."""
    _mia("promote", "r", "2", "--reason", "it plans better")
    _mia("rollback", "r")
    capsys.readouterr()
    _mia("list", "r")
    assert [("promoted", True), ("rolled_back", False)] == [
        (line["state"], line["serves"]) for line in _told(capsys)
    ]
    _mia("rollback", "r", "--to", "base")
    with pytest.raises(Refused, match="nothing to take back"):
        _mia("rollback", "r")


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("promote", "r", "9"), "planner@v9 is no version"),
        (("promote", "r", "1"), "already"),
        (("promote", "r", "gpt"), "names no version"),
        (("show", "r", "base"), "no version"),
        (("list", "nowhere"), "no run 'nowhere'"),
        (("export", "r", "1", "out"), "where the base model theirs lies is not known"),
        (("export", "r", "base", "out", "--adapter"), "has no adapter"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    lab: _Lab, arguments: tuple[str, ...], says: str
) -> None:
    """Nothing is written then."""
    with pytest.raises(Refused, match=says):
        _mia(*arguments)
    assert not Path("out").exists()


def test_a_version_is_exported_merged_or_as_its_adapter(lab: _Lab, tmp_path: Path) -> None:
    """Both can be used without this program."""
    base = tmp_path / "base"
    base.mkdir()
    weights = np.eye(4, dtype=np.float32)
    (base / "model.safetensors").write_bytes(safetensors({_Q: weights}))
    (base / "config.json").write_text("{}")
    _mia("export", "r", "1", str(tmp_path / "whole"), "--base", str(base))
    assert not np.array_equal(weights, Weights(tmp_path / "whole" / "model.safetensors")[_Q])
    _mia("export", "r", "1", str(tmp_path / "alone"), "--adapter")
    assert {"adapter_config.json", "adapter_model.safetensors"} == {
        path.name for path in (tmp_path / "alone").iterdir()
    }


def test_a_version_of_all_weights_is_exported_and_compared_whole(
    stack: StackThread,
    lab: _Lab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It needs no base model; there is no adapter of it. The base model is compared as it lies."""
    stack.run(lab.whole())
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(safetensors({_Q: np.zeros((2, 2), dtype=np.float32)}))
    monkeypatch.setenv("MIA_TRAINING__MODEL", str(base))
    _mia("export", "r", "2", str(tmp_path / "two"))
    assert [[2.0, 2.0]] * 2 == Weights(tmp_path / "two" / "model.safetensors")[_Q].tolist()
    with pytest.raises(Refused, match="no adapters"):
        _mia("export", "r", "2", str(tmp_path / "adapter"), "--adapter")
    for other, apart in (("1", (1, 2.0, 1.0)), ("base", (1, 4.0, 2.0))):
        capsys.readouterr()
        _mia("diff", "r", other, "2")
        told = json.loads(capsys.readouterr().out)["weights"]
        assert apart == (told["differ"], told["norm"], told["largest"])


def test_what_a_run_learns_is_told_line_by_line(
    lab: _Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sealed batch and an operator's order, each once, by time."""
    _mia("promote", "r", "2", "--reason", "it plans better")
    capsys.readouterr()
    _mia("r", "--once", command="learn")
    sealed, ordered = _told(capsys)
    assert ("planner@v1", "promoted", ["better"]) == (
        sealed["candidate"], sealed["training"], sealed["reasons"],
    )  # fmt: skip
    assert ("planner@v2", "planner@v1", "operator") == (
        ordered["policy"], ordered["previous"], ordered["by"],
    )  # fmt: skip


def test_the_learning_curve_is_written_to_a_file(lab: _Lab, tmp_path: Path) -> None:
    """A picture alone, or a page; another kind of file is refused."""
    for name in ("curve.svg", "curve.html"):
        _mia("r", "--plot", str(tmp_path / name), command="learn")
        assert "planner@v1" in (tmp_path / name).read_text()
    with pytest.raises(Refused, match="neither"):
        _mia("r", "--plot", str(tmp_path / "curve.png"), command="learn")


async def test_the_process_works_on_until_it_is_told_to_stop(lab: _Lab, tmp_path: Path) -> None:
    """Configured on standard input; each pass is reported, and a server that forgets is mended."""
    report = tmp_path / "policies.json"
    async with lora_server(LoraServer()) as server:
        config = msgspec.structs.replace(_config(lab, server), poll_s=0.1, report=str(report))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "ops.serving",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(config) + b"\n")
        await process.stdin.drain()
        for _ in range(2):
            async with asyncio.timeout(30):
                while not server.adapters:  # noqa: ASYNC110 - a process tells nobody
                    await asyncio.sleep(0.05)
            server.adapters.clear()
        process.terminate()
        said, _ = await process.communicate()
    assert 0 == process.returncode
    assert b"a-password" not in said
    level = read_report(report)
    assert level is not None
    assert [server.url] == [one.address for one in level.replicas]


async def test_a_server_is_brought_level_with_the_registry_in_postgres(lab: _Lab) -> None:
    """The role of workers reads all it needs; what serves is loaded, what was held back is not."""
    async with lora_server(LoraServer()) as server:
        async with reconciler_of(_config(lab, server)) as reconciler:
            level = await reconciler.once()
        assert level.is_level
        (name,) = server.adapters
    assert name.startswith("planner@v1-")


def _config(lab: _Lab, server: LoraServer) -> ServingConfig:
    return ServingConfig(
        dsn=lab.role_dsn(),
        artifacts=str(lab.home / "artifacts"),
        versions=str(lab.home / "adapters"),
        replicas=(Endpoint(base_url=server.url),),
        room=4,
        turn_s=20.0,
        poll_s=1.0,
    )
