"""What is remembered of a sidecar."""

from tests.control.fake_hub import workload
from tulle.control.peers import HELD_RECORDS_MAX, parse_hello


def test_so_many_records_of_a_sidecar_are_remembered() -> None:
    hello = {"workload": workload("web-1", "web"), "pid": 7, "version": "0.1.0", "admin": None}
    peer = parse_hello(1, "spiffe://tulle.local/ns/shop/sa/web", hello)

    for number in range(HELD_RECORDS_MAX):
        peer.acknowledged(f"service/shop/s{number}", "v1")
    peer.acknowledged("service/shop/more", "v1")
    peer.refused("service/shop/worse", "v1", "why")

    assert len(peer.records) == HELD_RECORDS_MAX
    assert "service/shop/s0" in peer.records
    peer.acknowledged("service/shop/s0", "v2")
    assert peer.records["service/shop/s0"].version == "v2"
