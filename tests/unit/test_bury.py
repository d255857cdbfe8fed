"""A command that is given up: what is told of it can be stored."""

from typing import Any

from consumers.plan import dead_letter_step
from consumers.runner.attempt import Attempts
from mia_events.lifecycle import Kind
from mia_events.steps import Poison
from schemas.envelope import encode_payload
from storage.ports import Claimed, DeadLetterRow, PendingCommit
from tests.support.drive import task
from tests.support.histories import chosen


class Fake:
    """Ledger, committer and context in one; keeps what it is told."""

    def __init__(self) -> None:
        self.todo = task(Kind.ROLLOUT, chosen())
        self.letters: list[DeadLetterRow] = []
        self.units: list[PendingCommit] = []

    async def task(self, _: Claimed) -> Any:
        return self.todo

    async def dead_letter(self, letter: DeadLetterRow) -> tuple[()]:
        self.letters.append(letter)
        return ()

    async def submit(self, unit: PendingCommit) -> str:
        self.units.append(unit)
        return "committed"

    def forget(self, stream: object) -> None:
        pass


async def test_an_error_with_control_characters_is_stored_without_them() -> None:
    """Postgres takes no NUL in a text, and an error may quote a server."""
    fake: Any = Fake()
    todo = fake.todo
    attempts = Attempts(
        ledger=fake,
        committer=fake,
        context=fake,
        performer=fake,
        stages={},
        next_claim=lambda *_: None,
        dead_letter_step=dead_letter_step,
        emit=lambda _: None,
    )
    claimed = Claimed(
        stream=todo.stream,
        version=todo.version,
        claim=1,
        kind=todo.kind,
        run_no=1,
        status=todo.status,
        topic="mia.execute",
        event_id=todo.event_id,
        parent=None,
        attempt=1,
        failures=0,
        isolated_deaths=0,
        history=tuple(encode_payload(event) for event in todo.history),
    )
    await attempts.bury(claimed, Poison("executor said \x00\ud800" + "x" * 9_000))
    (letter,) = fake.letters
    assert letter.message.startswith("Poison: executor said xxx")
    assert 2_000 == len(letter.message)
    (unit,) = fake.units
    assert "rollout.failed" == unit.step.entries[0].type
