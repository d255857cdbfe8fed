"""Figures for Prometheus; the one place where a metric is named."""

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from storage.postgres.gauges import Gauges

__all__ = ["CONTENT_TYPE", "NAMES", "exposition"]

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
#: Every metric: its help and its labels.
NAMES: Final = {
    "mia_questions": ("Questions by run and status.", ("run", "status")),
    "mia_questions_in_flight": ("Questions opened and not ended.", ("run",)),
    "mia_pending_commands": ("Commands that nobody holds: the lag of a stage.", ("topic",)),
    "mia_claimed_commands": ("Commands that a worker is handling.", ("topic",)),
    "mia_oldest_pending_seconds": ("Age of the oldest command that nobody holds.", ("topic",)),
    "mia_events_total": ("Events appended since the database's statistics began.", ("run",)),
    "mia_unacknowledged_facts": ("Outbound facts that Kafka has not acknowledged.", ()),
    "mia_dead_letters_total": ("Dead letters by class of error.", ("error_class",)),
}


class _Snapshot(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        found = self._gauges
        yield _family("mia_questions", ((q.run, q.status, q.count) for q in found.questions))
        yield _family("mia_questions_in_flight", found.in_flight)
        yield _family("mia_pending_commands", ((c.topic, c.pending) for c in found.commands))
        yield _family("mia_claimed_commands", ((c.topic, c.claimed) for c in found.commands))
        yield _family("mia_oldest_pending_seconds", ((c.topic, c.oldest) for c in found.commands))
        yield _family("mia_events_total", found.events)
        yield _family("mia_unacknowledged_facts", [(found.unacknowledged,)])
        yield _family("mia_dead_letters_total", found.dead_letters)


def _family(name: str, rows: Iterable[tuple[str | float, ...]]) -> Metric:
    """Return a metric; the last of each row is its value, those before are its labels."""
    text, labels = NAMES[name]
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    family = kind(name, text, labels=labels)
    for *values, value in rows:
        family.add_metric([str(one) for one in values], float(value))
    return family


def exposition(gauges: Gauges) -> bytes:
    """Return Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(gauges))
    return generate_latest(registry)
