"""Durations and regular expressions."""

import pytest
from pydantic_core import PydanticCustomError

from tulle.resources.values import Duration, regex_problem


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0s", 0),
        ("1ms", 1),
        ("10s", 10_000),
        ("1m30s", 90_000),
        ("1h2m3s4ms", 3_723_004),
        ("1s1s", 2000),
        ("007s", 7000),
        ("99999h", 99999 * 3_600_000),
    ],
)
def test_a_duration_is_the_sum_of_its_parts(text: str, ms: int) -> None:
    duration = Duration.parse(text)

    assert duration.ms == ms
    assert duration == text, "what the user wrote is kept"


@pytest.mark.parametrize(
    "text", ["", "10", "s", "1.5s", "-1s", "1 s", "1S", "100000s", "1h1m1s1ms1ms", "1d", "1s\n"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(PydanticCustomError):
        Duration.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "/api/v[0-9]+/.*",
        r"\d+\.\w*",
        "(a|b)?",
        "(?:a)",
        "(?P<x>a)",
        "(?i)a",
        r"\(?=",
        "a{2,3}",
        "[(?=]",
    ],
)
def test_an_expression_that_never_backtracks(text: str) -> None:
    assert regex_problem(text) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(?!a)", '"(?!a)" has look-around'),
        ("(x(?<!a))", '"(x(?<!a))" has look-around'),
        ("((?:(?=a))*)", '"((?:(?=a))*)" has look-around'),
        ("(?P<x>a)(?P=x)", '"(?P<x>a)(?P=x)" has a back-reference'),
        ("(a)?(?(1)b|c)", '"(a)?(?(1)b|c)" has a condition on a group'),
        ("a?+", '"a?+" has a possessive quantifier'),
        (r"a\Z", r'"a\Z" has "\Z", which only Python knows'),
        ("(?#x)", '"(?#x)" has "(?#", which only Python knows'),
        ("a{,3}", '"a{,3}" has "{,", which only Python knows'),
        ("*", '"*" is not a regular expression: nothing to repeat at position 0'),
        ("x" * 1025, "1025 bytes are too many"),
    ],
)
def test_an_expression_that_the_engine_cannot_run(text: str, message: str) -> None:
    assert regex_problem(text) == message


def test_the_longest_expression() -> None:
    assert regex_problem("x" * 1024) is None
