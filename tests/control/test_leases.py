"""Leases: endpoints leave a while after their sidecar, never because of a reconnect."""

import pytest

from tulle.control.leases import DEPARTED_S, LEASE_S, RESTART_GRACE_S, Leases


def test_a_sidecar_that_reconnects_in_time_is_never_missed():
    leases = Leases(10)
    leases.disconnected("shop/cart-1", 100.0, draining=False)
    assert leases.take_lapsed(100.0 + LEASE_S - 0.1) == []

    leases.connected("shop/cart-1")

    assert leases.take_lapsed(1000.0) == []
    assert leases.take_departed(10_000.0) == []


def test_a_lost_sidecar_lapses_once():
    leases = Leases(10)
    leases.disconnected("shop/cart-1", 100.0, draining=False)

    assert leases.take_lapsed(100.0 + LEASE_S) == ["shop/cart-1"]
    assert leases.take_lapsed(100.0 + LEASE_S) == []


def test_a_draining_sidecar_leaves_at_once():
    leases = Leases(10)
    leases.disconnected("shop/cart-1", 100.0, draining=True)

    assert leases.take_lapsed(100.0) == ["shop/cart-1"]


def test_after_a_restart_of_the_control_plane_all_have_time_to_return():
    leases = Leases(10)
    leases.restore(["shop/cart-1", "shop/cart-2"], [], 100.0)
    assert leases.take_lapsed(100.0 + RESTART_GRACE_S - 0.1) == []

    leases.connected("shop/cart-1")

    assert leases.take_lapsed(100.0 + RESTART_GRACE_S) == ["shop/cart-2"]


def test_a_workload_that_stays_away_departs_once():
    leases = Leases(10)
    leases.disconnected("shop/cart-1", 100.0, draining=True)
    leases.take_lapsed(100.0)
    assert leases.take_departed(100.0 + DEPARTED_S - 0.1) == []

    assert leases.take_departed(100.0 + DEPARTED_S) == ["shop/cart-1"]
    assert leases.take_departed(100.0 + DEPARTED_S) == []


@pytest.mark.parametrize(
    ("away", "departed"), [(2, []), (3, ["shop/w0"]), (4, ["shop/w0", "shop/w1"])]
)
def test_of_too_many_the_longest_gone_departs_first(away, departed):
    leases = Leases(departed_max=2)
    for number in range(away):
        leases.disconnected(f"shop/w{number}", 100.0 + number, draining=True)
        leases.take_lapsed(100.0 + number)

    assert leases.take_departed(110.0) == departed
