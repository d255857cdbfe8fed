"""Refuses a job whose numbers would spoil an update silently. Without torch."""

from __future__ import annotations

from math import isfinite

from mia_events.learning.job import Row, TrainJob

_ROUNDING = 1e-3


class UnfitError(Exception):
    """A job that cannot be done, wherever it is tried."""


def check(job: TrainJob) -> None:
    """Raise `UnfitError` unless every row is whole and at least one advantage pulls.

    verl skips a step whose gradient is not a number and says so in its log only; and where no
    advantage pulls, its optimizer still moves the weights by their momentum.
    """
    if not job.rows:
        raise UnfitError(
            "the job has no rows: a batch without judged groups must not reach a trainer"
        )
    for number, row in enumerate(job.rows):
        if problem := _problem(row, job.hyper.row_tokens):
            what = f"row {number} (question {row.question}, rollout {row.rollout}, {row.step})"
            raise UnfitError(f"{what}: {problem}")
    if not any(row.advantage for row in job.rows):
        raise UnfitError("every advantage is 0: there is nothing to learn, skip the update")
    if job.hyper.clip_dual <= 1.0:
        raise UnfitError(f"clip_dual is {job.hyper.clip_dual:g}: it bounds a ratio from above 1")


def _problem(row: Row, limit: int) -> str:
    tokens = len(row.prompt_ids) + len(row.token_ids)
    numbers = (*row.logprobs, row.reward, row.advantage)
    problems = {
        "a prompt or an answer without tokens": not row.prompt_ids or not row.token_ids,
        f"{len(row.token_ids)} tokens and {len(row.logprobs)} log-probabilities": (
            len(row.logprobs) != len(row.token_ids)
        ),
        f"{tokens} tokens, row_tokens is {limit}": tokens > limit,
        "a negative token id": any(token < 0 for token in (*row.prompt_ids, *row.token_ids)),
        "a number that is not finite": not all(map(isfinite, numbers)),
        "a log-probability above 0": any(each > _ROUNDING for each in row.logprobs),
    }
    return next((says for says, holds in problems.items() if holds), "")


__all__ = ["UnfitError", "check"]
