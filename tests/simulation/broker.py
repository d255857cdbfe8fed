"""A log in memory: topics with partitions, groups with committed offsets, members that come and go.

It repeats, delays and loses; within a partition records keep their order, as in the real one.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from zlib import crc32

from consumers.runner.log import Place, Record, Revoked
from storage.ports import TopicState

__all__ = ["Broker", "Member"]

Slot = tuple[str, int]


@dataclass(eq=False)
class Member:
    """One member of a group: what it owns, where it reads, what it does not want now."""

    group: str
    topic: str
    revoked: Revoked
    owned: dict[Slot, int] = field(default_factory=dict)  # next offset by partition
    paused: set[Slot] = field(default_factory=set)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    seen_at: float = 0.0
    evicted: bool = False


class Broker:
    """All topics. `session_s`: how long a silent member keeps its partitions."""

    def __init__(self, *, partitions: int, session_s: float) -> None:
        self._partitions = partitions
        self._session_s = session_s
        self.topics: dict[str, list[list[Record]]] = {}
        self.committed: dict[str, dict[Slot, int]] = defaultdict(dict)
        self.members: dict[str, list[Member]] = defaultdict(list)
        self.everything: list[Record] = []

    # --- topics ----------------------------------------------------------------------------------

    def make(self, names: Iterable[str]) -> list[str]:
        """Make the topics that are missing; the names made."""
        made = [name for name in names if name not in self.topics]
        for name in made:
            self.topics[name] = [[] for _ in range(self._partitions)]
            self._rebalance_readers(name)
        return made

    def drop(self, name: str) -> None:
        """Lose a topic with what groups remembered of it."""
        self.topics.pop(name, None)
        for offsets in self.committed.values():
            for slot in [slot for slot in offsets if slot[0] == name]:
                del offsets[slot]
        self._rebalance_readers(name)

    def partition_of(self, topic: str, key: bytes) -> int | None:
        """Where a key goes; None while the topic is missing."""
        return crc32(key) % self._partitions if topic in self.topics else None

    def append(self, topic: str, key: bytes, value: bytes, at: float) -> Place | None:
        """Append a record; None when the topic is missing."""
        partition = self.partition_of(topic, key)
        if partition is None:
            return None
        records = self.topics[topic][partition]
        record = Record(topic, partition, len(records), key, value, (), int(at * 1000))
        records.append(record)
        self.everything.append(record)
        for group in self.members.values():
            for member in group:
                if (topic, partition) in member.owned:
                    member.wake.set()
        return Place(partition, record.offset)

    def states(self, groups: Mapping[str, str]) -> list[TopicState]:
        """Committed and end offsets of the topics that are there."""
        return [
            TopicState(topic, number, self.committed[group].get((topic, number), -1), len(records))
            for topic, group in groups.items()
            for number, records in enumerate(self.topics.get(topic, ()))
        ]

    # --- groups ----------------------------------------------------------------------------------

    def join(self, member: Member, at: float) -> None:
        """Take a member in; everybody in the group starts anew from the committed offsets."""
        member.seen_at, member.evicted = at, False
        self.members[member.group].append(member)
        self._rebalance(member.group)

    def leave(self, member: Member) -> None:
        """A member goes; the others take over."""
        if member in self.members[member.group]:
            self.members[member.group].remove(member)
            member.owned.clear()
            self._rebalance(member.group)

    def evict_silent(self, at: float) -> None:
        """Members that have not polled for a session lose their place, and do not know it yet."""
        for group in list(self.members):
            silent = [m for m in self.members[group] if at - m.seen_at > self._session_s]
            for member in silent:
                member.evicted = True
                self.members[group].remove(member)
            if silent:
                self._rebalance(group)

    def fetch(self, member: Member, limit: int) -> list[Record]:
        """What lies ahead of a member, in order within each partition."""
        found: list[Record] = []
        for slot in sorted(member.owned):
            topic, number = slot
            if slot in member.paused or topic not in self.topics:
                continue
            records = self.topics[topic][number]
            position = member.owned[slot]
            if position > len(records):
                position = 0  # the topic was made anew: from the earliest
            batch = records[position : position + limit - len(found)]
            member.owned[slot] = position + len(batch)
            found += batch
        return found

    def commit(self, member: Member, offsets: Mapping[Slot, int]) -> None:
        """Remember offsets of the partitions that the member still owns."""
        if member.evicted:
            return
        for slot, position in offsets.items():
            if slot in member.owned and slot[0] in self.topics:
                self.committed[member.group][slot] = position

    def _rebalance_readers(self, topic: str) -> None:
        for group, members in self.members.items():
            if any(member.topic == topic for member in members):
                self._rebalance(group)

    def _rebalance(self, group: str) -> None:
        """Take all partitions away and hand them out again, round robin."""
        members = self.members[group]
        for member in members:
            lost = frozenset(member.owned)
            member.owned.clear()
            member.paused.clear()
            if lost:
                member.revoked(lost)
        if not members:
            return
        topic = members[0].topic
        for number in range(len(self.topics.get(topic, ()))):
            member = members[number % len(members)]
            slot = (topic, number)
            member.owned[slot] = self.committed[group].get(slot, 0)
            member.wake.set()
