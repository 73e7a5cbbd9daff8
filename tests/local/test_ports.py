"""Ports: the same at each start, never one that somebody has, and below the ephemeral range."""

import os
import socket
from pathlib import Path

from tulle.local.ports import FIRST, LAST, Ports, holder_of, is_free


def test_a_purpose_keeps_its_port_over_runs_and_shares_it_with_none() -> None:
    first, second = Ports("project"), Ports("project")

    ports = [first.take(f"app-{number}") for number in range(50)]

    assert [second.take(f"app-{number}") for number in range(50)] == ports
    assert len(set(ports)) == 50
    low, _high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert all(FIRST <= port <= LAST < int(low) for port in ports)


def test_a_taken_port_is_passed_over_and_its_holder_is_named() -> None:
    wanted = Ports("other").take("app")

    with socket.create_server(("127.0.0.1", wanted)):
        assert not is_free(wanted)
        assert Ports("other").take("app") != wanted
        holder = holder_of(wanted)

    assert holder is not None
    assert holder.startswith(f"process {os.getpid()} (")
    assert is_free(wanted)
    assert holder_of(wanted) is None
