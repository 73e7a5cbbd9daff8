"""Crashes cost ever less often, and a good run is forgiven."""

from tulle.local.backoff import LAST_SECONDS, STABLE_SECONDS, Backoff


def test_delays_double_up_to_a_bound() -> None:
    backoff = Backoff()

    delays = [backoff.next_delay(0.1) for _ in range(9)]

    assert delays[:4] == [0.2, 0.4, 0.8, 1.6]
    assert delays[-3:] == [LAST_SECONDS] * 3


def test_a_stable_run_and_a_wish_start_anew() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.next_delay(0)

    assert backoff.next_delay(STABLE_SECONDS) == 0.2
    backoff.next_delay(0)
    backoff.reset()
    assert backoff.next_delay(0) == 0.2
