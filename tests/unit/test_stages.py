"""Stages and life cycles fit together."""

from consumers.stages import STAGES
from mia_events.lifecycle import TABLES
from schemas.events import EVENT_TYPES


def test_every_command_has_a_handler() -> None:
    """Whatever a life cycle sends to a stage, that stage handles."""
    sent = {
        (rule.topic, EVENT_TYPES[event])
        for table in TABLES.values()
        for (_, event), rule in table.items()
        if rule.topic is not None
    }
    handled = {(topic, event) for topic, stage in STAGES.items() for event in stage}
    assert handled == sent
