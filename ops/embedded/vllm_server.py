"""vLLM's OpenAI-compatible server as a child process: one for chat, one for embeddings."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from ops.embedded.spec import ChildSpec
from ops.environments import ServeEnvironment
from ops.installing import FOREIGN_PROCESS

__all__ = [
    "CHAT_MODEL",
    "EMBEDDING_MODEL",
    "Adapters",
    "ChatModel",
    "VllmServer",
    "chat_server",
    "embedding_server",
]

CHAT_MODEL = "smollm2-135m-instruct"
EMBEDDING_MODEL = "all-minilm-l6-v2"

# A first start compiles the byte code of all that it imports, on a busy machine for minutes.
_READY_PATIENCE_S = 600.0
_CHILD = Path(__file__).with_name("vllm_child.py")
#: What vLLM finds as a plug-in, where it takes adapters.
_PLUGIN = Path(__file__).with_name("vllm_plugin")
_ADAPTING = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "PYTHONPATH": str(_PLUGIN)}
# Whitespace is legal anywhere in JSON, and a small model under a grammar loses itself in it.
_STRICT_JSON = {"backend": "xgrammar", "disable_any_whitespace": True}


@dataclass(frozen=True)
class Adapters:
    """LoRA adapters that come and go while the server runs: so many at once, of this rank at most.

    As many may be used in one batch as are kept; requests for more would push each other out.
    """

    most: int
    rank: int

    def options(self) -> list[str]:
        """Return vLLM's."""
        most = ("--max-loras", str(self.most), "--max-cpu-loras", str(self.most))
        return ["--enable-lora", *most, "--max-lora-rank", str(self.rank)]


@dataclass(frozen=True)
class VllmServer:
    """How to run one server of one model on loopback.

    `model` is a checkpoint folder or a Hugging Face id, `served_name` what requests call it.
    `dtype` is float32: on a CPU without bf16 instructions bfloat16 is emulated, several times
    slower. `eager` starts in a third of the time; compiled is worth it for long runs.
    `kv_cache_gib` bounds the memory of running requests. The key is checked on every request;
    empty means none. `adapters`: which it takes at run time; none cost nothing.
    """

    name: str
    python: Path
    model: str
    served_name: str
    port: int
    cache: Path
    path: str
    probe: Mapping[str, object]
    options: tuple[str, ...] = ()
    api_key: str = field(default="", repr=False)
    dtype: str = "float32"
    eager: bool = True
    threads: int = 1
    kv_cache_gib: int = 1
    adapters: Adapters | None = None

    @property
    def base_url(self) -> str:
        """What a client is given: `http://127.0.0.1:PORT/v1`."""
        return f"http://127.0.0.1:{self.port}/v1"

    def argv(self) -> list[str]:
        """Return the command."""
        return [
            *(str(self.python), str(_CHILD)),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--model", self.model, "--served-model-name", self.served_name),
            *("--dtype", self.dtype, "--disable-uvicorn-access-log"),
            *(("--enforce-eager",) if self.eager else ()),
            *(self.adapters.options() if self.adapters else ()),
            *self.options,
        ]

    def env(self) -> dict[str, str]:
        """Return the variables over ours; the key is here, where no list of processes shows it."""
        return {
            **FOREIGN_PROCESS,
            "HF_HUB_OFFLINE": "1" if Path(self.model).is_absolute() else "0",
            # Engine and worker in one process: a start imports vLLM twice, not three times.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_API_KEY": self.api_key,
            "VLLM_CACHE_ROOT": str(self.cache),
            "VLLM_CPU_KVCACHE_SPACE": str(self.kv_cache_gib),
            "VLLM_NO_USAGE_STATS": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(self.cache / "inductor"),
            "OMP_NUM_THREADS": str(self.threads),
            # Waiting threads sleep: the cores are shared with Kafka, Postgres and the workers.
            "OMP_WAIT_POLICY": "PASSIVE",
            **(_ADAPTING if self.adapters else {}),
        }

    def spec(self, depends_on: Sequence[str] = ()) -> ChildSpec:
        """Return how the supervisor runs it; ready means that it answered a real request."""
        return ChildSpec(
            name=self.name,
            argv=self.argv(),
            ready=self.answers,
            env=self.env(),
            depends_on=tuple(depends_on),
            port=self.port,
            ready_patience_s=_READY_PATIENCE_S,
        )

    async def answers(self) -> None:
        """Raise unless the server completes the probe: one token, or one embedding."""
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        async with (
            aiohttp.ClientSession(headers=headers, raise_for_status=True) as session,
            session.post(f"{self.base_url}/{self.path}", json=self.probe) as response,
        ):
            await response.read()


@dataclass(frozen=True)
class ChatModel:
    """What is served for chat: `model` is a checkpoint folder or a Hugging Face id, `name` what
    requests call it; the rest as in `VllmServer`.
    """

    model: str
    name: str
    dtype: str = "float32"
    eager: bool = True
    context_tokens: int = 8_192
    kv_cache_gib: int = 1


def chat_server(
    environment: ServeEnvironment,
    port: int,
    cache: Path,
    *,
    api_key: str = "",
    chat: ChatModel | None = None,
    adapters: Adapters | None = None,
) -> VllmServer:
    """Serve a model for chat on every core (the one in the box, unless `chat` names another), and
    `adapters` on it.
    """
    chat = chat or ChatModel(model=str(environment.chat_model), name=CHAT_MODEL)
    probe = [{"role": "user", "content": "Say yes."}]
    return VllmServer(
        name="vllm-chat",
        python=environment.python,
        model=chat.model,
        served_name=chat.name,
        port=port,
        cache=cache,
        path="chat/completions",
        probe={"model": chat.name, "messages": probe, "max_tokens": 1},
        options=(
            *("--max-model-len", str(chat.context_tokens)),
            *("--structured-outputs-config", json.dumps(_STRICT_JSON)),
        ),
        api_key=api_key,
        dtype=chat.dtype,
        eager=chat.eager,
        threads=os.cpu_count() or 1,
        kv_cache_gib=chat.kv_cache_gib,
        adapters=adapters,
    )


def embedding_server(
    environment: ServeEnvironment, port: int, cache: Path, *, api_key: str = ""
) -> VllmServer:
    """Serve all-MiniLM-L6-v2: 384 dimensions, normalised. Eager: there is little to gain."""
    return VllmServer(
        name="vllm-embedding",
        python=environment.python,
        model=str(environment.embedding_model),
        served_name=EMBEDDING_MODEL,
        port=port,
        cache=cache,
        path="embeddings",
        probe={"model": EMBEDDING_MODEL, "input": "yes"},
        options=("--runner", "pooling"),
        api_key=api_key,
    )
