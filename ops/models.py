"""Which model serves a role, and where: an endpoint of the settings, or the embedded vLLM."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from consumers.effects.model_client import Endpoint
from mia_events.steps import ModelChoice
from ops.embedded import report
from ops.embedded.jars import cache_folder
from ops.embedded.state import Home
from ops.embedded.vllm_server import CHAT_MODEL, EMBEDDING_MODEL, Adapters, ChatModel, VllmServer
from ops.embedded.vllm_server import chat_server as _chat
from ops.embedded.vllm_server import embedding_server as _embedding
from ops.environments import find_serve_environment, serve_folder
from ops.errors import Refused
from ops.settings import EmbeddedSettings, ModelSettings, Settings, read_secret

__all__ = [
    "ROLES",
    "adapters_of",
    "base_folder",
    "base_model_folder",
    "chat_model",
    "choices",
    "embedded_ports",
    "embedded_servers",
    "endpoints",
    "full_weight_servers",
    "missing_models",
    "needs_embedded",
    "planner_replicas",
    "ports_in_use",
    "served_chat_model",
]

CHAT: Final = "chat"
EMBEDDING: Final = "embedding"
_SERVER_OF: Final = {"embedder": EMBEDDING}
#: Who asks a model for something.
ROLES: Final = ("planner", "executor", "manager", "judge", "router", "embedder")


def needs_embedded(settings: Settings) -> bool:
    """Tell whether a role is served by the embedded vLLM, for want of a `base_url`."""
    return any(not _of(settings, role).base_url for role in ROLES)


def choices(settings: Settings) -> dict[str, ModelChoice]:
    """Return each role's model and sampling, to be pinned by a run."""
    chat = served_chat_model(settings)
    return {role: _choice(role, _of(settings, role), chat) for role in ROLES}


def served_chat_model(settings: Settings) -> str:
    """Return what requests call the embedded chat model: the settings', else that of a stack that
    was started with another one, else the one in the box.
    """
    if settings.embedded.model:
        return chat_model(settings.embedded).name
    return report.read(Home(Path(settings.home).absolute())).chat_model or CHAT_MODEL


def chat_model(embedded: EmbeddedSettings) -> ChatModel:
    """Return the model that settings name. A folder is called by its name.

    Raises:
        Refused: it looks like a folder, and there is none.
    """
    folder = Path(embedded.model).expanduser()
    if folder.is_dir():
        model, name = str(folder.absolute()), folder.absolute().name
    elif embedded.model.startswith(("/", ".", "~")):
        raise Refused(
            f"there is no checkpoint folder {embedded.model}",
            "Correct embedded.model, or name a Hugging Face id.",
        )
    else:
        model = name = embedded.model
    return ChatModel(model=model, name=name, **_running(embedded))


def _running(embedded: EmbeddedSettings) -> dict[str, Any]:
    return {
        "dtype": embedded.dtype,
        "eager": not embedded.compiled,
        "context_tokens": embedded.context_tokens,
        "kv_cache_gib": embedded.kv_cache_gib,
    }


def endpoints(settings: Settings, ports: Mapping[str, int]) -> dict[str, Endpoint]:
    """Return where each role is served; a role whose server does not run has no endpoint.

    `ports` are the embedded servers', by `chat` and `embedding`.
    """
    found = {role: _endpoint(role, settings, ports) for role in ROLES}
    return {role: endpoint for role, endpoint in found.items() if endpoint is not None}


def embedded_servers(settings: Settings, home: Home) -> list[VllmServer]:
    """Return the vLLM servers that these settings need and the serve environment can run.

    Raises:
        Refused: a configured port is taken.
    """
    environment = find_serve_environment(serve_folder())
    if environment is None or not settings.embedded.models or not needs_embedded(settings):
        return []
    cache = cache_folder().with_name("vllm")  # what vLLM compiles serves every stack of this user
    chat, _ = home.port(CHAT, settings.embedded.chat_port)
    embedding, _ = home.port(EMBEDDING, settings.embedded.embedding_port)
    served = (
        chat_model(settings.embedded)
        if settings.embedded.model
        else ChatModel(
            model=str(environment.chat_model), name=CHAT_MODEL, **_running(settings.embedded)
        )
    )
    return [
        _chat(environment, chat, cache, chat=served, adapters=adapters_of(settings)),
        _embedding(environment, embedding, cache),
    ]


def missing_models(settings: Settings) -> tuple[str, ...]:
    """Say, for a reader, that roles are left without a model; empty when none is."""
    if not settings.embedded.workers or not needs_embedded(settings):
        return ()
    if not settings.embedded.models:
        why = "vLLM was left out"
    elif find_serve_environment(serve_folder()) is None:
        why = f"there is no vLLM in {serve_folder()}: make it with `make env-serve`"
    else:
        return ()
    return (f"no model answers: {why}, or set models.default.base_url and model",)


def embedded_ports(servers: list[VllmServer]) -> dict[str, int]:
    """Return the ports of servers, as `endpoints` takes them."""
    return {server.name.removeprefix("vllm-"): server.port for server in servers}


def ports_in_use(home: Home) -> dict[str, int]:
    """Return the same of a stack that is up."""
    children = report.read(home).children
    return {
        child.name.removeprefix("vllm-"): child.port
        for child in children
        if child.name.startswith("vllm-")
    }


def planner_replicas(settings: Settings, ports: Mapping[str, int]) -> tuple[Endpoint, ...]:
    """Return every server of the planner, to be brought level with its versions."""
    planner = endpoints(settings, ports).get("planner")
    named = settings.serving.replicas
    if not named:
        return (planner,) if planner is not None else ()
    key_file = settings.models.planner.api_key_file
    key = read_secret(key_file) if key_file else ""
    chosen = settings.models.planner
    return tuple(
        Endpoint(
            base_url=url.rstrip("/"),
            api_key=key,
            timeout_s=chosen.timeout_s,
            concurrency=chosen.concurrency,
        )
        for url in named
    )


def full_weight_servers(settings: Settings) -> tuple[Endpoint, ...]:
    """Return the servers of which each holds one version of the planner; none where versions are
    adapters.

    Raises:
        Refused: nobody would exchange weights there; it has no servers of its own, so that another
            role would be answered by whatever weights are there; or they are not told apart.
    """
    if settings.serving.weights != "full":
        return ()
    if not settings.training.enabled:
        raise Refused(
            "servers of full weights are brought level only where runs may train",
            'Set training.enabled, or serving.weights = "adapters".',
        )
    if not settings.models.planner.base_url:
        raise Refused(
            "the embedded vLLM serves every role, and cannot change the planner's weights alone",
            'Set models.planner.base_url and model, or serving.weights = "adapters".',
        )
    if not settings.serving.replicas:
        raise Refused(
            "behind one address may be several servers, and no reply would tell whose it is",
            "Name each server of the planner in serving.replicas.",
        )
    servers = planner_replicas(settings, {})
    addresses = {server.base_url for server in servers}
    for role in ROLES:
        if role != "planner" and _of(settings, role).base_url.rstrip("/") in addresses:
            raise Refused(
                f"the {role} is served where the planner's weights come and go",
                f"Set models.{role}.base_url to another server.",
            )
    return servers


def base_folder(settings: Settings) -> Path | None:
    """Return the base model's checkpoint folder that the settings name, if they do."""
    named = Path(settings.training.model).expanduser()
    return named.absolute() if settings.training.model and named.is_dir() else None


def base_model_folder(settings: Settings, model: str) -> Path:
    """Return the checkpoint folder of a model as requests call it. Raises `Refused`."""
    environment = find_serve_environment(serve_folder())
    if named := base_folder(settings):
        return named
    if model == CHAT_MODEL and environment is not None:
        return environment.chat_model
    if settings.embedded.model:
        found = chat_model(settings.embedded)
        if found.name == model and Path(found.model).is_dir():
            return Path(found.model)
    raise Refused(f"where the base model {model} lies is not known", "Name its folder: --base.")


def adapters_of(settings: Settings) -> Adapters | None:
    """Return what the embedded server takes at run time: nothing, unless a run may train on it."""
    serving = settings.serving
    elsewhere = settings.models.planner.base_url or serving.weights == "full"
    if not settings.training.enabled or elsewhere:
        return None
    return Adapters(serving.max_loras, serving.max_lora_rank)


def _of(settings: Settings, role: str) -> ModelSettings:
    found: ModelSettings = getattr(settings.models, role)
    return found


def _choice(role: str, model: ModelSettings, chat: str) -> ModelChoice:
    embedded = EMBEDDING_MODEL if role == "embedder" else chat
    if model.base_url and not model.model:
        raise Refused(
            f"models.{role} has a base_url and no model",
            f"Set models.{role}.model, or models.default.model for all roles.",
        )
    return ModelChoice(
        model=model.model or embedded,
        max_tokens=model.sampling.max_tokens,
        temperature=model.sampling.temperature,
        top_p=model.sampling.top_p,
        context_tokens=model.context_tokens,
    )


def _endpoint(role: str, settings: Settings, ports: Mapping[str, int]) -> Endpoint | None:
    model = _of(settings, role)
    base_url = model.base_url
    if not base_url:
        port = ports.get(_SERVER_OF.get(role, CHAT))
        if port is None:
            return None
        base_url = f"http://127.0.0.1:{port}/v1"
    return Endpoint(
        base_url=base_url.rstrip("/"),
        api_key=read_secret(model.api_key_file) if model.api_key_file else "",
        timeout_s=model.timeout_s,
        concurrency=model.concurrency,
    )
