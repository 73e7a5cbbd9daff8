"""Reading YAML and JSON: plain values, places, and bounds on what a text may grow to."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.resources.text import DEPTH_MAX, TEXT_BYTES_MAX, MalformedText, documents


def _value(text: str) -> Any:
    (document,) = documents(text)
    return document.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", {"a": 1}),
        ("a: -0x1F", {"a": "-0x1F"}),
        ("a: 0x1F", {"a": 31}),
        ("a: 0o17", {"a": 15}),
        ("a: 017", {"a": 17}),
        ("a: 1.5", {"a": 1.5}),
        ("a: 1e3", {"a": 1000.0}),
        ("a: true", {"a": True}),
        ("a: on", {"a": "on"}),
        ("on: yes", {"on": "yes"}),
        ("80: a", {"80": "a"}),
        ("a: 2026-01-01", {"a": "2026-01-01"}),
        ("a: 1:30", {"a": "1:30"}),
        ("a: '1'", {"a": "1"}),
        ("a: !!str 1", {"a": "1"}),
        ("a: ", {"a": None}),
        ("a: ~", {"a": None}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("a: |\n  b\n", {"a": "b\n"}),
        ('{"a": "\\u00e9", "b": [1, null, false]}', {"a": "é", "b": [1, None, False]}),
        ('{\n\t"a": 1\n}', {"a": 1}),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    assert _value(text) == value


def test_empty_documents_are_passed_over() -> None:
    assert [d.value for d in documents("---\n# nothing\n---\na: 1\n---\n...\n")] == [{"a": 1}]
    assert list(documents("")) == []


def test_places_count_from_one() -> None:
    (document,) = documents("\na:\n  b: [10, 20]\n  c: {d: e}\n")

    assert document.place(()) == (2, 1)
    assert document.place(("a",)) == (2, 1)
    assert document.place(("a", "b")) == (3, 3)
    assert document.place(("a", "b", 1)) == (3, 11)
    assert document.place(("a", "c", "d")) == (4, 10)
    assert document.place(("a", "c", "missing")) == (4, 3)
    assert document.keys["a", "c", "d"] == (4, 7)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a: 1\na: 2", (2, 1), "duplicate key, first given in line 1"),
        ("[a]: 1", (1, 1), "a key is not a plain word"),
        ("a: !x 1", (1, 4), 'tag "!x" is not allowed'),
        ("a: !!binary aGk=", (1, 4), 'tag "binary" is not allowed'),
        ("a: !!python/name:os.system x", (1, 4), 'tag "python/name:os.system" is not allowed'),
        ("a: !!int x", (1, 4), '"x" is no int'),
        (f"a: {'9' * 41}", (1, 4), "the number is too long"),
    ],
)
def test_a_wrong_form_is_a_problem_at_its_place(
    text: str, place: tuple[int, int], message: str
) -> None:
    (document,) = documents(text)

    assert [(at, problem.message) for at, problem in document.problems] == [(place, message)]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: [", (2, 1)),
        ("a: b: c", (1, 5)),
        ("\ta: 1", (1, 1)),
        ("a: *nobody", (1, 4)),
        ("a: 'x", (1, 6)),
    ],
)
def test_what_is_no_yaml_is_refused_at_its_place(text: str, place: tuple[int, int]) -> None:
    with pytest.raises(MalformedText) as refused:
        list(documents(text))

    assert refused.value.place is not None
    assert refused.value.place[0] in (place[0], place[0] - 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: \xff", "the text is not UTF-8"),
        ("a: \ud800", "the text is not UTF-8"),
        ("a: \x00", "not YAML: "),
        ("a" * (TEXT_BYTES_MAX + 1), "the text is larger than 4 MiB"),
        ("[" * 1_000_000, "nested deeper than 64"),
        ("- " * 1_000_000, "nested deeper than 64"),
        ("? " * 1_000_000, "nested deeper than 64"),
        ("{a: " * 100 + "1" + "}" * 100, "nested deeper than 64"),
        ("- " * 100 + "a", "nested deeper than 64"),
    ],
)
def test_what_is_too_much_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(MalformedText, match=message):
        list(documents(text))


def test_depth_is_allowed_up_to_its_bound() -> None:
    value: Any = _value("[" * DEPTH_MAX + "]" * DEPTH_MAX)
    for _ in range(DEPTH_MAX - 1):
        (value,) = value

    assert value == []


def test_a_billion_laughs_are_cut_short() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]

    with pytest.raises(MalformedText, match="more than 400000 values, aliases included"):
        list(documents("\n".join(lines)))


def test_an_alias_of_itself_is_cut_short() -> None:
    with pytest.raises(MalformedText, match='no value before this has the anchor "a"'):
        list(documents("a: &a [*a]"))


def test_aliases_cannot_add_up_to_more_depth() -> None:
    nest = "a: &a " + "[" * 40 + "]" * 40 + "\nb: "

    assert _value(nest + "[[*a]]")["b"]
    with pytest.raises(MalformedText, match="nested deeper than 64"):
        list(documents(nest + "[" * 25 + "*a" + "]" * 25))


@given(
    st.text(alphabet="ab:-{}[],&*!|>'\"# \n\t0.~\x00é\u2028", max_size=60) | st.binary(max_size=40)
)
def test_no_text_does_anything_but_parse_or_be_refused(text: str | bytes) -> None:
    with suppress(MalformedText):
        assert all(document.value is not None for document in documents(text))
