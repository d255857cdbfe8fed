"""The plan stage: plans of single rollouts, and the question's own decisions between them."""

from consumers.plan.fan_out import fan_out
from consumers.plan.preempt import dead_letter_step, fail_question
from consumers.plan.route import route
from consumers.plan.settle import settle
from consumers.plan.write import write_plan
from mia_events.steps import Stage
from schemas.events import QuestionOpened, QuestionPlanned, QuestionSettling, RolloutOpened

STAGE: Stage = {
    QuestionOpened: fan_out,
    QuestionPlanned: route,
    QuestionSettling: settle,
    RolloutOpened: write_plan,
}

__all__ = ["STAGE", "dead_letter_step", "fail_question"]
