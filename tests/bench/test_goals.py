"""Goals: what is compared with what, and what counts as met."""

from dataclasses import asdict

import pytest

from bench.goals import GOALS, Goal, judge
from bench.readme import UNITS
from bench.report import COLUMNS, Row

ROWS = [
    asdict(Row("plain", "tulle", cpu_us_per_request=12.0, gbit_per_s=3.0)),
    asdict(Row("plain", "haproxy", cpu_us_per_request=16.0, gbit_per_s=4.0)),
]


@pytest.mark.parametrize(
    ("goal", "expected"),
    [
        pytest.param(Goal("plain", "cpu_us_per_request", 12.0), (12.0, True), id="at-the-bound"),
        pytest.param(Goal("plain", "cpu_us_per_request", 11.9), (12.0, False), id="past-the-bound"),
        pytest.param(
            Goal("plain", "cpu_us_per_request", 0.8, "haproxy"), (0.75, True), id="against-a-peer"
        ),
        pytest.param(
            Goal("plain", "gbit_per_s", 0.75, "haproxy", at_least=True),
            (0.75, True),
            id="more-is-better",
        ),
        pytest.param(
            Goal("plain", "gbit_per_s", 0.8, "haproxy", at_least=True),
            (0.75, False),
            id="too-little-of-it",
        ),
        pytest.param(Goal("plain", "rss_mib", 15.0), (None, None), id="not-measured"),
        pytest.param(
            Goal("plain", "cpu_us_per_request", 0.3, "envoy"), (None, None), id="no-such-peer"
        ),
    ],
)
def test_a_goal_is_met_up_to_its_bound(
    goal: Goal, expected: tuple[float | None, bool | None]
) -> None:
    (verdict,) = judge([goal], ROWS)

    assert (verdict.measured, verdict.met) == expected


def test_every_goal_is_about_a_number_that_has_a_name_and_a_column() -> None:
    fields = {goal.field for goal in GOALS}

    assert fields - UNITS.keys() == set()
    assert fields - COLUMNS.keys() == set()
