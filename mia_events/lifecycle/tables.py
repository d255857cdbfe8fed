"""The life cycles themselves. The diagrams in the documentation are drawn from these literals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from mia_events import topics
from mia_events.lifecycle.transitions import ENDED, Kind, Phase, Rule, Table

_ROLLOUT_OPEN: Final = (
    "planning",
    "planned",
    "executing",
    "calling",
    "reflecting",
    "proposed",
    "judging",
)
_QUESTION_BEFORE_ANSWER: Final = (
    "waiting",
    "opening",
    "planning",
    "routing",
    "executing",
    "settling",
)

ROLLOUT: Final[Table] = {
    (None, "rollout.opened"): Rule(status="planning", topic=topics.PLAN, phase=Phase.PLANNING),
    ("planning", "rollout.planned"): Rule(status="planned", phase=Phase.PLANNED),
    ("planned", "rollout.chosen"): Rule(status="executing", topic=topics.EXECUTE),
    ("executing", "turn.tool_called"): Rule(status="calling", topic=topics.TOOL_CALL),
    ("executing", "turn.rejected"): Rule(status="executing", topic=topics.EXECUTE),
    ("calling", "tool.returned"): Rule(status="executing", topic=topics.EXECUTE),
    ("executing", "turn.answered"): Rule(status="reflecting", topic=topics.REFLECT),
    ("reflecting", "rollout.replanned"): Rule(status="executing", topic=topics.EXECUTE),
    ("reflecting", "rollout.proposed"): Rule(status="proposed", phase=Phase.PROPOSED),
    ("reflecting", "rollout.finished"): Rule(
        status="judging", topic=topics.JUDGE, phase=Phase.PROPOSED
    ),
    ("proposed", "rollout.submitted"): Rule(status="judging", topic=topics.JUDGE),
    ("judging", "rollout.judged"): Rule(status=ENDED, phase=Phase.ENDED),
    **{
        (status, "rollout.failed"): Rule(status=ENDED, phase=Phase.ENDED)
        for status in _ROLLOUT_OPEN
    },
}

QUESTION: Final[Table] = {
    (None, "question.asked"): Rule(status="waiting"),
    ("waiting", "question.opened"): Rule(status="opening", topic=topics.PLAN),
    ("opening", "question.fanned_out"): Rule(status="planning"),
    ("planning", "question.planned"): Rule(status="routing", topic=topics.PLAN),
    ("routing", "question.routed"): Rule(status="executing"),
    ("executing", "question.settling"): Rule(status="settling", topic=topics.PLAN),
    ("settling", "question.rerouted"): Rule(status="executing"),
    ("settling", "question.answered"): Rule(status="grading", outbox=topics.ANSWER),
    ("grading", "question.graded"): Rule(status="consolidating", topic=topics.CONSOLIDATE),
    ("consolidating", "question.consolidated"): Rule(status=ENDED),
    **{
        (status, "question.failed"): Rule(status="grading", outbox=topics.ANSWER)
        for status in _QUESTION_BEFORE_ANSWER
    },
}

BATCH: Final[Table] = {
    (None, "batch.started"): Rule(status="filling"),
    ("filling", "batch.opened"): Rule(status="open"),
    ("filling", "batch.closed"): Rule(status="full"),
    ("open", "batch.closed"): Rule(status="running"),
    ("full", "batch.opened"): Rule(status="running"),
    ("running", "batch.ended"): Rule(status=ENDED),
}

LEARNER: Final[Table] = {
    (None, "learner.started"): Rule(status="idle"),
    ("idle", "learner.batch_ready"): Rule(status="merging", topic=topics.CONSOLIDATE),
    ("merging", "learner.merged"): Rule(status="training", topic=topics.TRAIN),
    ("merging", "learner.sealed"): Rule(status="idle"),
    ("training", "learner.trained"): Rule(
        status="guarding", topic=topics.JUDGE, outbox=topics.POLICY
    ),
    ("training", "learner.untrained"): Rule(status="guarding", topic=topics.JUDGE),
    ("training", "learner.sealed"): Rule(status="idle", outbox=topics.POLICY),
    ("guarding", "learner.sealed"): Rule(status="idle", outbox=topics.POLICY),
}

RUN: Final[Table] = {
    (None, "run.created"): Rule(status="running"),
    ("running", "run.paused"): Rule(status="paused"),
    ("closing", "run.paused"): Rule(status="closing_paused"),
    ("paused", "run.resumed"): Rule(status="running"),
    ("closing_paused", "run.resumed"): Rule(status="closing"),
    **{
        (status, "run.policy_set"): Rule(status=status, outbox=topics.POLICY)
        for status in ("running", "paused", "closing", "closing_paused")
    },
    ("running", "run.closed"): Rule(status="closing"),
    ("paused", "run.closed"): Rule(status="closing_paused"),
    ("closing", "run.finished"): Rule(status=ENDED),
    **{
        (status, "run.cancelled"): Rule(status=ENDED)
        for status in ("running", "paused", "closing", "closing_paused")
    },
}

TABLES: Final[Mapping[Kind, Table]] = {
    Kind.ROLLOUT: ROLLOUT,
    Kind.QUESTION: QUESTION,
    Kind.BATCH: BATCH,
    Kind.LEARNER: LEARNER,
    Kind.RUN: RUN,
}


class Join(msgspec.Struct, frozen=True, kw_only=True):
    """An event that the commit itself appends to a question that waits in `status`, once `when`
    holds (as the commit function computes it).
    """

    status: str
    event: str
    name: str
    when: str


JOINS: Final = (
    Join(status="planning", event="question.planned", name="planned", when="planned >= g"),
    Join(
        status="executing",
        event="question.settling",
        name="settling:{candidate}",
        when="the candidate has proposed or ended",
    ),
    Join(status="grading", event="question.graded", name="graded", when="ended >= g"),
)

__all__ = ["BATCH", "JOINS", "LEARNER", "QUESTION", "ROLLOUT", "RUN", "TABLES", "Join"]
