"""Training rows: one planner turn each, token for token as it was sampled and recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from math import isfinite
from typing import Final
from uuid import UUID

import msgspec

from mia_events.effects import GroupView, ModelReply, RolloutTurns
from mia_events.learning.job import Row
from mia_events.trajectory import follow
from schemas.envelope import decode_payload

_encoder: Final = msgspec.json.Encoder(order="sorted")


class UntrainableTurn(ValueError):
    """A recorded turn that cannot be a row; names its effect."""


class Sample(msgspec.Struct, frozen=True):
    """What a rollout was worth: its reward, and its advantage within its group."""

    reward: float
    advantage: float


def rows_of(group: GroupView, samples: Mapping[int, Sample], *, row_tokens: int) -> tuple[Row, ...]:
    """The rows of the rollouts in `samples` (by number), in the order of rollouts and turns.

    A turn that sampled nothing has none. Raises `UntrainableTurn`: tokens that were not captured or
    do not fit together, or more than `row_tokens` of them; nothing is cut to fit.
    """
    rows: list[Row] = []
    for rollout in sorted(group.rollouts, key=lambda one: one.number):
        if rollout.number in samples:
            rows += _rows(group.question, rollout, samples[rollout.number], row_tokens)
    return tuple(rows)


def data_sha256(rows: Iterable[Row]) -> str:
    """SHA-256 hex of the rows in their order, as JSON with sorted keys."""
    return sha256(_encoder.encode(tuple(rows))).hexdigest()


def _rows(question: UUID, rollout: RolloutTurns, sample: Sample, row_tokens: int) -> Iterator[Row]:
    policy = follow([decode_payload(bytes(body)) for body in rollout.history]).policy
    for turn in rollout.turns:
        reply = turn.reply
        problem = _problem(reply, row_tokens)
        if problem:
            raise UntrainableTurn(
                f"the {turn.step} turn of rollout {rollout.number} of question {question} "
                f"(effect {turn.ordinal} of event {turn.event_id}) {problem}"
            )
        if reply.token_ids:
            yield Row(
                question=question,
                rollout=rollout.number,
                step=turn.step,
                policy=policy,
                prompt_ids=reply.prompt_ids,
                token_ids=reply.token_ids,
                logprobs=reply.logprobs,
                reward=sample.reward,
                advantage=sample.advantage,
                status="truncated" if reply.finish_reason == "length" else "complete",
            )


def _problem(reply: ModelReply, row_tokens: int) -> str:
    """Why a reply cannot be a row, or nothing."""
    tokens = len(reply.prompt_ids) + len(reply.token_ids)
    if reply.problem:
        return "is no reply: its call failed"
    if reply.uncaptured or not reply.prompt_ids or len(reply.token_ids) < reply.completion_tokens:
        why = reply.uncaptured or "its prompt or its tokens are missing"
        return f"was recorded without its tokens: {why}"
    if len(reply.logprobs) != len(reply.token_ids):
        return f"has {len(reply.logprobs)} log-probabilities for {len(reply.token_ids)} tokens"
    if not all(isfinite(value) for value in reply.logprobs):
        return "has a log-probability that is no finite number"
    if tokens > row_tokens:
        return (
            f"has {tokens} tokens, a row holds {row_tokens}: raise the row limit, or sample "
            "shorter prompts and replies"
        )
    return ""


__all__ = ["Sample", "UntrainableTurn", "data_sha256", "rows_of"]
