"""Tables, durations and colours."""

import io
from datetime import UTC, datetime

import pytest

from tulle.cli.output import Column, age, colour_enabled, duration_text, percent, table_lines

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_tables_align_text_left_and_numbers_right():
    columns = (
        Column("NAME", lambda r: r["name"]),
        Column("COUNT", lambda r: r["count"], right=True),
        Column("NOTE", lambda r: r["note"]),
    )
    rows = [
        {"name": "catalog", "count": 5, "note": None},
        {"name": "web", "count": 12345, "note": "x"},
    ]
    assert table_lines(columns, rows) == [
        "NAME      COUNT   NOTE",
        "catalog       5   -",
        "web       12345   x",
    ]


def test_zero_is_shown_as_zero_and_nothing_as_a_dash():
    column = Column("N", lambda r: r["n"])
    assert table_lines([column], [{"n": 0}, {"n": None}, {"n": ""}]) == ["N", "0", "-", "-"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (172800, "2d"),
        (-5, "0s"),
    ],
)
def test_durations_are_in_the_largest_unit_of_which_there_are_two(seconds, text):
    assert duration_text(seconds) == text


def test_age_reads_kubernetes_timestamps():
    assert age("2026-01-01T23:55:00Z", NOW) == "5m"
    assert age(None, NOW) is None


def test_no_traffic_is_not_zero_percent():
    assert percent(None) is None
    assert percent(0.0) == "0.00%"
    assert percent(0.99951) == "99.95%"


@pytest.mark.parametrize(
    ("environment", "stream", "expected"),
    [
        ({"TERM": "xterm"}, Terminal(), True),
        ({"TERM": "xterm"}, io.StringIO(), False),
        ({"TERM": "dumb"}, Terminal(), False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, Terminal(), False),
        ({"FORCE_COLOR": "1"}, io.StringIO(), True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, io.StringIO(), False),
    ],
)
def test_when_a_stream_is_coloured(monkeypatch, environment, stream, expected):
    for name in ("TERM", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert colour_enabled(stream) is expected


def test_the_option_decides_over_the_environment(tulle, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" in tulle("--color=always", "edges").err
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in tulle("edges").err
    assert "\x1b[" not in tulle("--no-color", "edges").err
