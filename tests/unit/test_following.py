"""A question is followed without loss or repeat, however the commits of its streams interleave."""

from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mia_events import ids
from mia_events.lifecycle import Kind
from ops.api.guard import Problem
from ops.api.stream import Limit, parse_place, steps
from ops.following import told
from storage.postgres.history import PostgresHistory, QuestionState, StoredEvent, place_after

_ID = UUID("00000000-0000-4000-8000-0000000000aa")
_AT = datetime(2026, 1, 1, tzinfo=UTC)


def _event(slot: int, seq: int, tick: int = 0, body: bytes | None = b'{"type":"x"}') -> StoredEvent:
    stream = _ID if slot == 0 else ids.rollout_id(_ID, slot - 1)
    return StoredEvent(
        id=ids.event_id(stream, seq), stream=stream, seq=seq, kind=Kind.ROLLOUT, type="x",
        at=_AT + timedelta(seconds=tick), correlation=_ID, body=body, slot=slot, topic=None,
        cause=None, claim=None, attempt=None,
    )  # fmt: skip


def _state(*, closed: bool) -> QuestionState:
    return QuestionState(
        id=_ID, run_no=1, run="r", run_state="running", scope="s", pos=0, batch=None, source="id",
        row="k", pass_no=0, status="failed" if closed else "open", answer=None,
        reason="no_answer" if closed else None, grade=None, official=None, g=1, closed=closed,
        urgent=True, accepted_at=_AT, answered_at=None, ended_at=None, text="q?", answered=None,
    )  # fmt: skip


class _History:
    """A ledger in which some events become visible with each look."""

    def __init__(self, looks: list[list[StoredEvent]]) -> None:
        self._looks, self._visible = looks, list[StoredEvent]()

    async def question(self, _: UUID) -> QuestionState:
        self._visible += self._looks.pop(0) if self._looks else []
        return _state(closed=not self._looks)

    async def steps(
        self, _run: int, _question: UUID, place: tuple[int, ...] = ()
    ) -> list[StoredEvent]:
        after = dict(enumerate(place))
        return [event for event in self._visible if event.seq > after.get(event.slot, 0)]

    async def memories(self, _: object) -> list[object]:
        return []


@st.composite
def looks(draw: st.DrawFn) -> list[list[StoredEvent]]:
    """Events of up to four streams, in order within each, spread over looks with any clocks."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    order = draw(st.permutations([slot for slot, n in enumerate(lengths) for _ in range(n)]))
    seqs, batches = [0] * len(lengths), [list[StoredEvent]()]
    for slot in order:
        seqs[slot] += 1
        batches[-1].append(_event(slot, seqs[slot], draw(st.integers(0, 9))))
        if draw(st.booleans()):
            batches.append([])
    return batches


async def _read(history: _History, place: str, most: int) -> list[tuple[str, str]]:
    """Read up to `most` messages, then go away: (id, event's id or `end`)."""
    found: list[tuple[str, str]] = []
    stream = steps(cast("PostgresHistory", history), _ID, parse_place(place), Limit(1), every_s=0)
    async for chunk in stream:
        fields = dict(line.split(": ", 1) for line in chunk.decode().strip().splitlines())
        if "data" in fields:
            data = msgspec.json.decode(fields["data"])
            found.append((fields["id"], fields["event"] if "stream" not in data else data["id"]))
        if len(found) == most:
            break
    await stream.aclose()  # type: ignore[attr-defined]  # an asynchronous generator
    return found


@given(batches=looks(), chunks=st.lists(st.integers(1, 6), min_size=1, max_size=8))
async def test_a_client_that_comes_back_misses_nothing_and_gets_nothing_twice(
    batches: list[list[StoredEvent]], chunks: list[int]
) -> None:
    """Disconnected anywhere, it sends back the last id it has; streams keep their order."""
    expected = {str(event.id) for batch in batches for event in batch}
    history, place, got = _History(batches), "", list[str]()
    for most in [*chunks, 10_000]:
        messages = await _read(history, place, most)
        place = messages[-1][0] if messages else place
        got += [name for _, name in messages if name != "end"]
    assert len(got) == len(set(got))
    assert expected == set(got)


def test_a_place_is_the_last_of_each_stream() -> None:
    """Gaps are streams of which nothing was seen."""
    assert (2, 0, 5) == place_after((), [_event(0, 2), _event(2, 5), _event(0, 1)])
    assert (3, 4) == place_after((3, 4), [_event(0, 1)])


@pytest.mark.parametrize("text", ["x", "-1", "1..2", "1.x", "9" * 11, "٣", "4294967296", " 1"])
def test_an_id_that_nobody_sent_is_refused(text: str) -> None:
    """It comes from outside."""
    with pytest.raises(Problem, match="Last-Event-ID"):
        parse_place(text)


def test_streams_are_bounded() -> None:
    """Each costs the database something."""
    limit = Limit(1)
    limit.require_room()
    with limit, pytest.raises(Problem, match="open already"):
        limit.require_room()
    limit.require_room()


def test_an_erased_payload_is_told_as_none() -> None:
    """The event happened; what it said is gone."""
    assert (None, 0) == (told(_event(1, 1, body=None))["data"], told(_event(1, 1))["rollout"])
