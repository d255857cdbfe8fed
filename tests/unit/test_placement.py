"""Which server holds which version: all hold all adapters; of whole weights each holds one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.serving.levelling import Wanted
from ops.serving.placement import Everywhere, Turns

_TURN_S = 20.0


def _wanted(*names: str) -> tuple[Wanted, ...]:
    return tuple(Wanted(name, "") for name in names)


class _Servers:
    """Servers that do what they are told, and a clock."""

    def __init__(self, count: int) -> None:
        self.held: dict[str, str | None] = {f"server-{number}": None for number in range(count)}
        self.turns, self.now, self.swaps = Turns(_TURN_S), 0.0, 0

    def pass_(self, *names: str, failing: frozenset[str] = frozenset()) -> set[str | None]:
        """One pass, a second after the last; what is held then."""
        held = {server: frozenset({name} if name else ()) for server, name in self.held.items()}
        shares = self.turns.shares(_wanted(*names), held, now=self.now, failing=failing)
        assert shares.keys() == self.held.keys()
        for server, share in shares.items():
            for one in share:
                if one.name not in failing and self.held[server] != one.name:
                    self.held[server] = one.name
                    self.swaps += 1
        self.now += 1.0
        return set(self.held.values())


def test_adapters_are_everywhere() -> None:
    """And more than there is room for are told."""
    held = {"one": frozenset[str](), "two": frozenset({"b"})}
    wanted = _wanted("a", "b", "c")
    shares = Everywhere(2).shares(wanted, held, now=0.0, failing=())
    assert {"one": wanted, "two": wanted} == shares
    assert "serving.max_loras" in Everywhere(2).problem(wanted)
    assert not Everywhere(3).problem(wanted)


def test_what_is_held_and_wanted_stays() -> None:
    """A second pass changes nothing; who is wanted no more makes room."""
    servers = _Servers(2)
    assert {"a", "b"} == servers.pass_("a", "b")
    assert {"a", "b"} == servers.pass_("a", "b")
    assert 2 == servers.swaps
    assert {"b", "c"} == servers.pass_("b", "c")
    assert 3 == servers.swaps


def test_a_new_version_takes_a_copys_place_at_once() -> None:
    """Nobody has to wait for a turn to end while another server holds the same."""
    servers = _Servers(3)
    assert {"a"} == servers.pass_("a")
    assert {"a", "b"} == servers.pass_("a", "b")
    assert {"a", "b", "c"} == servers.pass_("a", "b", "c")


def test_more_versions_than_servers_take_turns() -> None:
    """Each for its time, and not a moment sooner."""
    servers = _Servers(1)
    seen = [next(iter(servers.pass_("a", "b", "c"))) for _ in range(80)]
    turns = [name for name, before in zip(seen, [None, *seen], strict=False) if name != before]
    assert ["a", "b", "c", "a"] == turns
    assert min(seen.count(name) for name in "abc") >= _TURN_S


def test_a_server_that_misses_a_pass_keeps_its_place_in_turn() -> None:
    """It was slow to say what it holds, and has held it all the while."""
    turns, wanted = Turns(_TURN_S), _wanted("a", "b")
    held = {"one": frozenset({"a"})}
    turns.shares(wanted, held, now=0.0, failing=())
    turns.shares(wanted, {}, now=_TURN_S - 1, failing=())
    assert {"one": _wanted("b")} == turns.shares(wanted, held, now=_TURN_S, failing=())


def test_what_cannot_be_loaded_holds_up_no_other() -> None:
    """It comes last, and what is there stays until something can take its place."""
    servers = _Servers(1)
    servers.pass_("b")
    seen = [servers.pass_("a", "b", "c", failing=frozenset({"a"})) for _ in range(60)]
    assert {"b"} in seen
    assert {"c"} in seen
    assert {"a"} not in seen


def test_nothing_wanted_is_nothing_given() -> None:
    """Whatever is there is not asked for."""
    servers = _Servers(2)
    shares = servers.turns.shares((), {"one": frozenset({"x"})}, now=0.0, failing=())
    assert {"one": ()} == shares


@pytest.mark.parametrize("count", [1, 2, 3])
@given(data=st.data())
def test_every_version_that_stays_wanted_has_its_turn(count: int, data: st.DataObject) -> None:
    """Whatever else comes and goes."""
    servers = _Servers(count)
    others = st.sets(st.sampled_from("abcde"), max_size=3)
    seen: set[str | None] = set()
    for _ in range(int(5 * (_TURN_S + 1))):
        seen |= servers.pass_("kept", *sorted(data.draw(others)))
        if "kept" in seen:
            break
    assert "kept" in seen
