"""Turns of the benchmark: which of them count."""

from collections.abc import Iterator

import pytest

from bench import process
from bench.generator import Outcome
from bench.workloads import REPEATS_MAX, STOLEN_MAX, Round, quietest

OUTCOME = Outcome(requests=1, errors=0, resumed=0, seconds=1.0, p50_us=1, p99_us=1)


def turns(*stolen: float) -> Iterator[Round]:
    return (Round(number, OUTCOME, share) for number, share in enumerate(stolen))


@pytest.mark.parametrize(
    ("stolen", "chosen", "left"),
    [
        pytest.param((STOLEN_MAX, 0.0, 0.0, 0.0), 0, 3, id="quiet-enough"),
        pytest.param((0.2, 0.0, 0.0, 0.0), 1, 2, id="the-second-was-quiet"),
        pytest.param((0.2, 0.1, 0.3, 0.0), 1, 3 - REPEATS_MAX, id="the-best-of-all-tries"),
    ],
)
def test_a_turn_that_the_host_disturbed_is_measured_again(
    stolen: tuple[float, ...], chosen: int, left: int
) -> None:
    measured = turns(*stolen)

    assert quietest(lambda: next(measured)).cpu_ns == chosen
    assert len(list(measured)) == left


def test_stolen_time_only_grows() -> None:
    before = process.stolen_s()

    assert 0 <= before <= process.stolen_s()
