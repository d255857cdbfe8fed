"""Settings: one tree of frozen structs, read from a TOML file and `MIA_*` variables.

A variable names a key with double underscores, `MIA_WORKER__SLOTS=32`, and wins over the file.
Secrets never stand in either: a key that ends in `_file` names a file that holds one.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast, get_type_hints

import msgspec

from mia_events.learning.job import Hyper
from mia_events.learning.rewards import Weights
from ops.errors import Refused

__all__ = [
    "ApiSettings",
    "EmbeddedSettings",
    "KafkaSettings",
    "ModelSettings",
    "ModelsSettings",
    "PostgresSettings",
    "RetrievalSettings",
    "Sampling",
    "ServingSettings",
    "Settings",
    "TrainingSettings",
    "WorkerSettings",
    "load_settings",
    "read_secret",
]

_PREFIX: Final = "MIA_"
_Tree = dict[str, Any]
#: How a list in a variable begins; an address may begin with the bracket alone.
_LISTS = ('["', "[]")


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all sections share: frozen, by keyword, nothing unknown."""


class KafkaSettings(_Section, frozen=True):
    """The event log. `embedded` is ours; `external` is any cluster of Kafka 3.x or 4.x."""

    mode: Literal["embedded", "external"] = "embedded"
    bootstrap_servers: str = ""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str = ""
    sasl_password_file: str = ""
    tls_ca_file: str = ""
    tls_certificate_file: str = ""
    tls_key_file: str = ""
    partitions: int = 6
    replication_factor: int = 1


class PostgresSettings(_Section, frozen=True):
    """The ledger. `dsn` is for `external` and holds no password.

    `password_files` maps a database role (and `admin`, the owner of the DSN) to the file of its
    password; the embedded Postgres makes its own.
    """

    mode: Literal["embedded", "external"] = "embedded"
    dsn: str = ""
    database: str = "mia"
    password_files: dict[str, str] = {}
    pool_size: int = 8


class Sampling(_Section, frozen=True):
    """How a role samples; `seed` and stop strings come from the request."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512


class ModelSettings(_Section, frozen=True):
    """One role's OpenAI-compatible endpoint; without `base_url` it is the embedded vLLM.

    `context_tokens` is the length of the model's context, prompt and reply together.
    """

    base_url: str = ""
    model: str = ""
    api_key_file: str = ""
    sampling: Sampling = Sampling()
    context_tokens: int = 8_192
    timeout_s: float = 300.0
    concurrency: int = 64


class ModelsSettings(_Section, frozen=True):
    """The roles' endpoints. What a role leaves out it takes from `default`."""

    default: ModelSettings = ModelSettings()
    planner: ModelSettings = ModelSettings()
    executor: ModelSettings = ModelSettings()
    manager: ModelSettings = ModelSettings()
    judge: ModelSettings = ModelSettings()
    router: ModelSettings = ModelSettings()
    embedder: ModelSettings = ModelSettings()


class RetrievalSettings(_Section, frozen=True):
    """Where questions without documents are searched for.

    `embedded` serves the file or folder `passages` (nothing, without one); `external` is any
    service with the same contract at `base_url`. `dense` adds vectors of the embedder to words.
    """

    mode: Literal["off", "embedded", "external"] = "embedded"
    passages: str = ""
    base_url: str = ""
    dense: bool = False
    top_k: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    timeout_s: float = 10.0


class ServingSettings(_Section, frozen=True):
    """How planner versions reach the servers of the planner, where `training.enabled`.

    `replicas` are their addresses (empty: the planner's `base_url`, else the embedded vLLM), which
    must find versions in `folder` (empty: in the state folder) under the same path. `max_loras` and
    `max_lora_rank` are what every replica was started with; the embedded one is.

    `weights` "full": runs train every weight, and each replica, which serves nobody but the
    planner, holds one version at a time. More versions than replicas take turns of `turn_s`.
    """

    weights: Literal["adapters", "full"] = "adapters"
    replicas: tuple[str, ...] = ()
    folder: str = ""
    turn_s: Annotated[float, msgspec.Meta(gt=0)] = 20.0
    max_loras: Annotated[int, msgspec.Meta(ge=1)] = 8
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 16
    poll_s: Annotated[float, msgspec.Meta(ge=0.1)] = 1.0


class TrainingSettings(_Section, frozen=True):
    """Test-time training of the planner. `enabled`: runs may train, and versions are served.

    `folder` is the train environment (empty: `.venv-train` of the checkout), `model` the folder of
    the base model's weights (empty: those that the embedded vLLM serves). `threads` 0 is all of
    them; several `processes` share an update; `token_budget` is how many tokens go through the
    model at once (0: as many as the longest row has). `hyper` is what runs take unless told
    otherwise, `reward` what the parts of a reward weigh (none: as published).
    """

    enabled: bool = False
    folder: str = ""
    model: str = ""
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    processes: Annotated[int, msgspec.Meta(ge=1)] = 1
    token_budget: Annotated[int, msgspec.Meta(ge=0)] = 0
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 3_600.0
    hyper: Hyper = Hyper()
    reward: Weights | None = None


class WorkerSettings(_Section, frozen=True):
    """One worker process. `slots` bounds its handlers; times are in seconds."""

    slots: int = 64
    lease_s: float = 30.0
    session_timeout_s: float = 10.0
    drain_s: float = 20.0
    watchdog_s: float = 60.0
    sweep_every_s: float = 1.0
    processes: int = 1


class ApiSettings(_Section, frozen=True):
    """The HTTP interface. `mia up` serves it when it is `enabled`, `mia api` in any case.

    A port of 0 picks a free one and keeps it. `token_file` names what clients must send; without
    one the state folder gets one, which does for this machine only.
    """

    enabled: bool = False
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0
    token_file: str = ""
    max_body_kb: Annotated[int, msgspec.Meta(ge=1, le=4_000)] = 900


class EmbeddedSettings(_Section, frozen=True):
    """The processes that `mia up` starts itself. A port of 0 picks a free one and keeps it.

    `model`, a Hugging Face id or a checkpoint folder, is served for chat instead of the one in the
    box, in `dtype`, with `context_tokens` for prompt and reply together; `compiled` starts slower
    and runs faster; `kv_cache_gib` is the memory for requests in flight.

    `kafka_jars` is a folder of the pinned jars and `java` a Java program, for machines without a
    way out; `postgres_user` is who Postgres runs as when we are root. `workers` and `models` say
    whether worker processes and vLLM are started too.
    """

    kafka_port: int = 0
    controller_port: int = 0
    postgres_port: int = 0
    chat_port: int = 0
    embedding_port: int = 0
    retrieval_port: int = 0
    workers: bool = True
    models: bool = True
    model: str = ""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    compiled: bool = False
    context_tokens: Annotated[int, msgspec.Meta(ge=512)] = 8_192
    kv_cache_gib: Annotated[int, msgspec.Meta(ge=1)] = 1
    kafka_heap_mb: int = 512
    kafka_retention_hours: int = 168
    kafka_jars: str = ""
    java: str = ""
    postgres_user: str = "nobody"
    postgres_shared_buffers_mb: int = 256
    postgres_max_connections: int = 120
    postgres_wal_mb: int = 256


class Settings(_Section, frozen=True):
    """Everything that can be set. `home` is the state folder (`MIA_HOME`)."""

    home: str = ".mia"
    kafka: KafkaSettings = KafkaSettings()
    postgres: PostgresSettings = PostgresSettings()
    models: ModelsSettings = ModelsSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    serving: ServingSettings = ServingSettings()
    training: TrainingSettings = TrainingSettings()
    worker: WorkerSettings = WorkerSettings()
    api: ApiSettings = ApiSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the file at `path` (else `MIA_CONFIG`, else `mia.toml` if it is there) and variables.

    Raises:
        Refused: an unknown key (the message names the nearest one), a wrong type, no such file.
    """
    environ = os.environ if environ is None else environ
    chosen = path or (Path(environ["MIA_CONFIG"]) if environ.get("MIA_CONFIG") else None)
    tree = _read(chosen)
    for name, value in sorted(environ.items()):
        keys = _keys(name)
        if keys:
            _set(tree, keys, value, name)
    _refuse_unknown(tree, Settings, "")
    _inherit_default_model(tree)
    try:
        return msgspec.convert(tree, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise Refused(f"settings: {error}", "Correct that key.") from error


def read_secret(path: str) -> str:
    """Return what a secret's file holds, without the line end.

    Raises:
        Refused: the file is missing, closed to us, or empty.
    """
    try:
        secret = Path(path).expanduser().read_text().strip()
    except OSError as error:
        raise Refused(
            f"cannot read the secret in {path}: {error.strerror}", "Check the path."
        ) from error
    if not secret:
        raise Refused(f"the secret in {path} is empty", "Write the password into that file.")
    return secret


def _read(chosen: Path | None) -> _Tree:
    path = chosen or Path("mia.toml")
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        if chosen is None:
            return {}
        raise Refused(
            f"there is no settings file {path}", "Correct --config or MIA_CONFIG."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"{path} is not TOML: {error}", "Correct that line.") from error


def _keys(variable: str) -> list[str]:
    """Return the path that a variable names; other programs' and single words are none."""
    if variable == "MIA_HOME":
        return ["home"]
    if not variable.startswith(_PREFIX) or "__" not in variable:
        return []
    return variable.removeprefix(_PREFIX).lower().split("__")


def _set(tree: _Tree, keys: list[str], value: str, variable: str) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise Refused(f"{variable} names a key below a value", "Drop its last part.")
    tree[keys[-1]] = _listed(value, variable) if value.startswith(_LISTS) else value


def _listed(value: str, variable: str) -> object:
    """Return what a variable says in brackets: a list, as JSON writes it."""
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise Refused(f"{variable} is no list: {error}", 'Write it as ["one", "two"].') from error


def _refuse_unknown(tree: _Tree, struct: type[msgspec.Struct], path: str) -> None:
    known = get_type_hints(struct)
    for key, value in tree.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            raise Refused(
                f"settings: there is no key {path}{key}",
                f"Did you mean {path}{near[0]}?" if near else f"Known: {', '.join(known)}.",
            )
        if (
            isinstance(value, dict)
            and isinstance(known[key], type)
            and issubclass(known[key], _Section)
        ):
            _refuse_unknown(value, known[key], f"{path}{key}.")


def _inherit_default_model(tree: _Tree) -> None:
    models = tree.get("models", {})
    default = models.get("default", {})
    for role in ModelsSettings.__struct_fields__:
        models[role] = _merged(default, models.get(role, {}))
    tree["models"] = models


def _merged(base: _Tree, over: _Tree) -> _Tree:
    """Return `base` with the keys of `over`; tables in both are merged in turn."""
    both = {key for key in base.keys() & over.keys() if isinstance(base[key], dict)}
    merged = {key: _merged(base[key], cast("_Tree", over[key])) for key in both}
    return {**base, **over, **merged}
