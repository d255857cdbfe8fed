"""What a task is made of: the whole history of its stream, wherever its events come from."""

from typing import Any

import pytest

from consumers.runner.attempt import Attempts
from consumers.runner.context import Context, Lost
from mia_events.lifecycle import Kind
from schemas.envelope import encode_payload
from storage.ports import Claimed
from tests.support.drive import RUN, task
from tests.support.histories import chosen

TODO = task(Kind.ROLLOUT, chosen())
WHOLE = tuple(encode_payload(event) for event in TODO.history)


def claimed(history: tuple[bytes, ...] = WHOLE, version: int = len(WHOLE)) -> Claimed:
    """A claim on the stream of `TODO` that brings these events."""
    return Claimed(
        stream=TODO.stream, version=version, claim=1, kind=TODO.kind, run_no=1, status=TODO.status,
        topic="mia.execute", event_id=TODO.event_id, parent=None, attempt=3, failures=0,
        isolated_deaths=0, history=history,
    )  # fmt: skip


class Store:
    """A ledger with that stream, or without it; counts how often it is read."""

    def __init__(self, *streams: Claimed) -> None:
        self.streams = streams
        self.reads = 0

    async def run(self, _: int) -> Any:
        return RUN

    async def load(self, *_: object) -> tuple[Claimed, ...]:
        self.reads += 1
        return self.streams


async def test_events_at_hand_and_those_of_a_claim_are_one_history() -> None:
    """A second claim brings what is new; nothing is read again."""
    store: Any = Store()
    context = Context(store)
    await context.task(claimed(WHOLE[:2], 2))
    assert 2 == context.known(TODO.stream)
    assert TODO.history == (await context.task(claimed(WHOLE[2:]))).history
    assert 0 == store.reads


@pytest.mark.parametrize("known", range(1, len(WHOLE) + 1))
async def test_what_was_at_hand_where_it_was_claimed_is_read_again_elsewhere(known: int) -> None:
    """A process of its own for one command, or a cache that was full, has none of it."""
    store: Any = Store(claimed())
    found = await Context(store).task(claimed(WHOLE[known:]))
    assert TODO.history == found.history
    assert 1 == store.reads


async def test_a_stream_that_went_on_meanwhile_is_no_task() -> None:
    """Neither one that has ended; an attempt at it has lost its claim."""
    for store in (Store(), Store(claimed(version=len(WHOLE) + 1))):
        ledger: Any = store
        with pytest.raises(Lost):
            await Context(ledger).task(claimed(()))
        attempts = Attempts(
            ledger=ledger, committer=ledger, context=Context(ledger), performer=ledger, stages={},
            next_claim=lambda *_: None, dead_letter_step=ledger, emit=lambda _: None,
        )  # fmt: skip
        with pytest.raises(Lost):
            await attempts.run(claimed(()))
        with pytest.raises(Lost):
            await attempts.bury(claimed(()), ValueError("given up"))
