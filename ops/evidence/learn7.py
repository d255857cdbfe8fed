"""learn-7: verl's log-probabilities against vLLM's for the same tokens, its gradients against
plain PyTorch's; under the base model, and under a version that the first update made.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import msgspec

from consumers.effects.model_client import Endpoint, ModelClient
from mia_events.effects import Call, Message, ModelReply
from mia_events.learning.advantages import advantages
from mia_events.learning.job import Hyper, Parent, Row, Trained, TrainJob
from mia_events.learning.versions import BASE, served_name, version_name
from ops.embedded.state import Home, free_port
from ops.embedded.supervisor import Supervisor
from ops.embedded.vllm_server import CHAT_MODEL, Adapters, chat_server
from ops.environments import (
    ServeEnvironment,
    find_serve_environment,
    find_train_environment,
    serve_folder,
    train_folder,
)
from ops.errors import Refused
from ops.evidence.plain import Comparison, compared
from ops.evidence.record import Claim, Evidence
from ops.evidence.swaps import Store
from ops.serving.folders import VersionFolders
from ops.serving.replica import VllmReplica
from ops.training.process import Launch
from ops.training.trainer import EngineTrainer, Machine

__all__ = ["TITLE", "evidence"]

TITLE: Final = "verl's log-probabilities are vLLM's, and its gradients are those of plain PyTorch"
_QUESTIONS: Final = (
    "Plan how to find which of two rivers is longer.",
    "Plan how to learn who wrote the anthem of a country.",
    "Plan how to check when a bridge was opened.",
    "Plan how to compare the heights of two towers.",
)
_GROUP: Final = 4
_TOKENS: Final = 48
_THREADS: Final = 2
#: No decay and no clipped gradient, so that gradients are compared as they are; a step that shows.
_HYPER: Final = Hyper(lr=1e-3, weight_decay=0.0, max_grad_norm=1e9, importance=2.0)
#: fp32 on both sides: what is left is the order of sums.
_MEAN_GAP, _LARGEST_GAP, _GRADIENT_GAP = 1e-4, 2e-3, 1e-3


async def evidence(*, short: bool = False) -> Evidence:
    """Sample, train, load what came of it, sample again, train again."""
    serving, training = _environments()
    questions = _QUESTIONS[:2] if short else _QUESTIONS
    with tempfile.TemporaryDirectory(prefix="mia-learn7-") as name:
        async with _served(serving, Path(name)) as server:
            lab = _Lab(Path(name), serving.chat_model, training, server)
            figures = {BASE: await lab.update(questions, 1, Parent(), CHAT_MODEL)}
            served = await lab.load()
            parent = Parent(
                policy=version_name(1),
                adapter_sha256=lab.made.adapter_sha256,
                optimizer_sha256=lab.made.optimizer_sha256,
            )
            figures[parent.policy] = await lab.update(questions, 2, parent, served)
    return Evidence(figures=figures, claims=tuple(_judge(figures)))


def _environments() -> tuple[ServeEnvironment, Path]:
    serving = find_serve_environment(serve_folder())
    training = find_train_environment(train_folder())
    if serving is None or training is None:
        raise Refused(
            "there is no vLLM, or no verl", "Make them: `make env-serve`, `make env-train`."
        )
    return serving, training


@asynccontextmanager
async def _served(serving: ServeEnvironment, folder: Path) -> AsyncIterator[Endpoint]:
    adapters = Adapters(most=1, rank=_HYPER.lora_rank)
    server = chat_server(serving, free_port(set()), serving.cache, adapters=adapters)
    home = Home(folder / "home")
    with home.locked():
        supervisor = Supervisor(home, [server.spec()])
        try:
            await supervisor.start()
            yield Endpoint(base_url=server.base_url)
        finally:
            await supervisor.stop()


class _Lab:
    """A server, a trainer, and the last version made."""

    made: Trained

    def __init__(self, folder: Path, model: Path, python: Path, server: Endpoint) -> None:
        self._folder, self._python, self._server = folder, python, server
        self._store = Store()
        machine = Machine(
            launch=Launch(python),
            model=model,
            folder=folder / "jobs",
            threads=_THREADS,
            keep=True,
        )
        self._trainer = EngineTrainer(machine, self._store)

    async def update(
        self, questions: tuple[str, ...], number: int, parent: Parent, served: str
    ) -> dict[str, Any]:
        """Sample from `served`, train on it; the figures of both."""
        rows = await self._sampled(questions, parent.policy, served)
        job = TrainJob(
            policy=version_name(number),
            model=CHAT_MODEL,
            parent=parent,
            hyper=_HYPER,
            seed=number,
            rows=rows,
        )
        before = set((self._folder / "jobs").glob("*"))
        self.made = await self._trainer.train(job)
        (folder,) = set((self._folder / "jobs").glob("*")) - before
        plain = await asyncio.to_thread(compared, self._python, folder)
        return _figures(self.made, plain)

    async def load(self) -> str:
        """Serve the version that was made; its served name."""
        name = served_name(version_name(1), self.made.adapter_sha256)
        folder = await VersionFolders(self._store, self._folder / "adapters").ensure(
            name, self.made.adapter_sha256
        )
        async with VllmReplica(self._server) as replica:
            await replica.load(name, folder)
        return name

    async def _sampled(
        self, questions: tuple[str, ...], policy: str, served: str
    ) -> tuple[Row, ...]:
        async with ModelClient({"planner": self._server}) as models:
            asked = [
                models.chat(_call(text, seed), served=served)
                for text in questions
                for seed in range(_GROUP)
            ]
            replies = await asyncio.gather(*asked)
        return tuple(
            row
            for start, text in zip(range(0, len(replies), _GROUP), questions, strict=True)
            for row in _rows(text, replies[start : start + _GROUP], policy)
        )


def _call(text: str, seed: int) -> Call:
    return Call(
        role="planner",
        model=CHAT_MODEL,
        messages=(Message("user", text),),
        max_tokens=_TOKENS,
        temperature=1.0,
        seed=seed,
        capture_tokens=True,
        trained=True,
    )


def _rows(text: str, group: list[ModelReply], policy: str) -> list[Row]:
    """Return rows of a group; the first half is called the better one."""
    rewards = [float(number < _GROUP // 2) for number in range(_GROUP)]
    gained = advantages(rewards, normalise=True)
    return [
        Row(
            question=uuid5(NAMESPACE_URL, text),
            rollout=number,
            step="plan",
            policy=policy,
            prompt_ids=reply.prompt_ids,
            token_ids=reply.token_ids,
            logprobs=reply.logprobs,
            reward=rewards[number],
            advantage=gained[number],
        )
        for number, reply in enumerate(group)
    ]


def _figures(made: Trained, plain: Comparison) -> dict[str, Any]:
    of_verl = ("rows", "tokens", "sampler_gap_mean", "sampler_gap_max", "ess", "loss", "grad_norm")
    return {
        "verl": {name: made.metrics[name] for name in of_verl},
        "plain PyTorch": msgspec.structs.asdict(plain),
        "seconds": made.seconds,
        "determinants": msgspec.structs.asdict(made.determinants),
    }


def _judge(figures: dict[str, dict[str, Any]]) -> list[Claim]:
    claims = []
    for policy, found in figures.items():
        verl, plain = found["verl"], found["plain PyTorch"]
        claims += [
            Claim(
                f"{policy}: verl and vLLM differ by {verl['sampler_gap_mean']:.1e} on average and"
                f" {verl['sampler_gap_max']:.1e} at most, over {verl['tokens']:.0f} tokens",
                verl["sampler_gap_mean"] < _MEAN_GAP and verl["sampler_gap_max"] < _LARGEST_GAP,
            ),
            Claim(
                f"{policy}: {plain['gradient_tensors']} gradients are plain PyTorch's to"
                f" {plain['gradient_worst']:.1e} of their largest value, the loss to"
                f" {plain['loss_gap']:.1e}",
                plain["gradient_worst"] < _GRADIENT_GAP and plain["loss_gap"] < _MEAN_GAP,
            ),
        ]
    return claims
