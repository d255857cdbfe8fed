"""Ports for servers of our own."""

import socket
from pathlib import Path

from ops.embedded.state import free_port, port_is_free

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_no_outgoing_connection_is_given_the_port_before_its_server() -> None:
    """Linux takes theirs from a range above, which 200 draws stay out of."""
    lowest = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    assert lowest > max(free_port(set()) for _ in range(200))


def test_a_port_that_is_taken_or_excluded_is_not_picked() -> None:
    """Where somebody listens none can be started."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not port_is_free(server.getsockname()[1])
    first = free_port(set())
    assert first not in {free_port({first}) for _ in range(50)}
