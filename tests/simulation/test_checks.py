"""The checks can fail: rows that were tampered with are found, and so is a broken ledger."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock
from uuid import uuid4

import msgspec
import pytest

from mia_events.commits import Entry
from schemas.envelope import decode_envelope, encode_envelope
from storage.inmemory import commit
from storage.inmemory.ledger import InMemoryLedger
from storage.inmemory.state import ActiveRow, Database, QuestionRow
from storage.ports import EffectRow, Outcome
from tests.simulation.chance import Faults
from tests.simulation.check import digest_of, findings
from tests.simulation.judge import judge_scenario
from tests.simulation.scenario import Scenario
from tests.simulation.simulate import Result, simulate


def _fresh() -> Result:
    scenario = Scenario(
        seed=3, mode="batch", questions=3, rollouts=2, batch_size=2, lag=0, max_in_flight=256,
        processes=1, slots=4, partitions=1, local_dispatch=True,
    )  # fmt: skip
    result = simulate(scenario)
    assert [] == findings(result)
    return result


def _question(db: Database) -> QuestionRow:
    return next(iter(db.questions.values()))


def _drop_last_event(db: Database) -> None:
    db.events[_question(db).id].pop()


def _repeat_last_event(db: Database) -> None:
    log = db.events[_question(db).id]
    log.append(log[-1])


def _change_a_body(db: Database) -> None:
    db.events[_question(db).id][-2].body = b'{"type":"question.graded","x":1}'


def _second_claim(db: Database) -> None:
    logs = [log for log in db.events.values() if any(event.claim for event in log)]
    one, other = [next(event for event in log if event.claim) for log in logs[:2]]
    other.claim = one.claim


def _lose_an_effect(db: Database) -> None:
    del db.effects[next(iter(db.effects))]


def _change_an_effect(db: Database) -> None:
    key, row = next((key, row) for key, row in db.effects.items() if row.kind == "call")
    db.effects[key] = msgspec.structs.replace(row, result=b'{"text":"other"}')


def _add_an_effect(db: Database) -> None:
    (event, ordinal), row = list(db.effects.items())[-1]
    db.effects[event, ordinal + 1] = msgspec.structs.replace(row, ordinal=ordinal + 1)


def _open_question(db: Database) -> None:
    question = _question(db)
    db.active[question.id] = ActiveRow(
        stream=question.id, run_no=1, kind=db.events[question.id][0].kind, status="grading",
        head=question.head, pending=uuid4(), topic=None, parent=None, updated_at=db.clock(),
    )  # fmt: skip


def _miscount_a_join(db: Database) -> None:
    _question(db).ended += 1


def _forget_a_rollout(db: Database) -> None:
    del db.rollouts[next(iter(db.rollouts))]


def _count_a_question_twice(db: Database) -> None:
    db.runs[1].ended += 1


def _wrong_generation(db: Database) -> None:
    db.batches[1, 1].generation = 0


@pytest.mark.parametrize(
    "tamper",
    [
        _drop_last_event, _repeat_last_event, _change_a_body, _second_claim, _lose_an_effect,
        _change_an_effect, _add_an_effect, _open_question, _miscount_a_join, _forget_a_rollout,
        _count_a_question_twice, _wrong_generation,
    ],
)  # fmt: skip
def test_rows_that_were_tampered_with_are_found(tamper: Callable[[Database], None]) -> None:
    """A clean run has no findings; after one change it has."""
    result = _fresh()
    tamper(result.db)
    assert findings(result) != []


def test_records_that_the_ledger_does_not_know_are_found() -> None:
    """The topics hold nothing but events of the ledger."""
    result = _fresh()
    record = result.broker.everything[-1]
    stranger = msgspec.structs.replace(decode_envelope(record.value), id=uuid4())
    value = encode_envelope(stranger)
    result.broker.everything.append(msgspec.structs.replace(record, value=value))
    (finding,) = findings(result)
    assert "the ledger does not" in finding


def test_a_call_that_was_made_again_is_found() -> None:
    """The account of calls is part of the verdict."""
    result = _fresh()
    call = next(iter(result.account.calls))
    result.account.unrepeatable[call] += 2
    (finding,) = findings(result)
    assert "was called 2 times" in finding


def test_a_run_that_does_not_end_is_found() -> None:
    """Whoever waits is named."""
    scenario = Scenario.drawn(1)
    found = findings(simulate(scenario, limit_s=0.5))
    assert found
    assert all("did not end" in finding for finding in found)


def test_the_digest_sees_answers_and_memories() -> None:
    """Another answer or another memory is another digest."""
    result = _fresh()
    before = digest_of(result.db)
    _question(result.db).answer = "other"
    changed = digest_of(result.db)
    result.db.memories[0].text = "other"
    assert 3 == len({before, changed, digest_of(result.db)})


# --- broken parts -----------------------------------------------------------------------------


def _anyone_may_commit(db: Database, entry: Entry) -> bool:
    return entry.stream in db.active


def _last_writer_wins(db: Database, effects: Iterable[EffectRow]) -> Outcome:
    db.effects |= {(effect.event_id, effect.ordinal): effect for effect in effects}
    return "committed"


def _conflicts_are_ignored(db: Database, effects: Iterable[EffectRow]) -> Outcome:
    for effect in effects:
        db.effects.setdefault((effect.event_id, effect.ordinal), effect)
    return "committed"


async def _nothing_is_unsent(self: InMemoryLedger, topics: Any, **options: Any) -> list[Any]:
    return []


async def _no_effects(self: InMemoryLedger, run_no: int, event_id: Any) -> list[Any]:
    return []


def _claims_are_never_lost(self: InMemoryLedger, row: ActiveRow) -> bool:
    return row.attempt > 1 or row.due_at is not None


def _no_joins(db: Database, question: Any, joins: Any) -> list[Any]:
    return []


@pytest.mark.parametrize(
    "target, broken",
    [
        ((commit, "_guard_holds"), _anyone_may_commit),
        ((commit, "_record"), _last_writer_wins),
        ((commit, "_record"), _conflicts_are_ignored),
        ((InMemoryLedger, "unsent"), _nothing_is_unsent),
        ((InMemoryLedger, "effects"), _no_effects),
        ((commit, "_join"), _no_joins),
    ],
)
def test_a_broken_ledger_is_found(target: tuple[Any, str], broken: Any) -> None:
    """With a guarantee taken out, one of the first harsh seeds fails."""
    with mock.patch.object(*target, broken):
        assert any(_harsh(seed) for seed in range(40))


def test_a_ledger_that_forgets_what_a_lost_claim_left_is_found() -> None:
    """One of the first seeds in which claims are lost fails."""
    with mock.patch.object(InMemoryLedger, "_begun", _claims_are_never_lost):
        verdicts = [judge_scenario(Scenario.forgetful(seed), compare=False) for seed in range(10)]
    assert any("was made again" in found for one in verdicts for found in one.findings)


def _scenario(seed: int) -> Scenario:
    """Many workers at one command: short leases that are never renewed, and a moody model."""
    return Scenario(
        seed=seed, mode="batch", questions=5, rollouts=3, batch_size=3, lag=1, max_in_flight=256,
        processes=3, slots=16, partitions=3, local_dispatch=True, lease_s=0.5, moody=True,
        faults=Faults(
            latency_s=0.1, model_s=2.0, kills=8, freezes=8, drains=4, renewal_loss=1.0,
            within_s=25.0,
        ),
    )  # fmt: skip


def _harsh(seed: int) -> tuple[str, ...]:
    return judge_scenario(_scenario(seed), compare=False, limit_s=300.0).findings


def test_without_a_break_the_same_seeds_are_clean() -> None:
    """What is found above comes from the break."""
    assert {()} == {_harsh(seed) for seed in range(8)}


def test_the_seeds_reach_what_they_are_for() -> None:
    """Steps are lost, effects conflict, commands are taken over, sent again and isolated."""
    seen: Counter[str] = Counter()
    for seed in range(8):
        scenario = Scenario.hurried(seed)
        seen += simulate(scenario).seen
        seen += simulate(_scenario(seed)).seen
        seen += simulate(Scenario.forgetful(seed)).seen
    wanted = {"lost", "conflict", "taken over", "suspected", "sent again", "overdue", "claims lost"}
    assert wanted <= {name for name, count in seen.items() if count}
