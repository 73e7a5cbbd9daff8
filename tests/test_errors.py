"""Errors: one tree, drawn as it is, each told in lines fit for a user."""

import inspect
import re

from tulle import errors
from tulle.errors import InvalidResources, NotFound, TulleError, Violation


def test_the_tree_drawn_in_the_docstring_is_complete() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    defined = [
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, TulleError) and value is not TulleError
    ]

    assert drawn == defined


def test_a_violation_tells_place_resource_path_and_both_halves() -> None:
    violation = Violation("Service shop/cart", "spec", "is required", "", 3, 1, "shop.yaml")

    assert str(violation) == "shop.yaml:3:1: Service shop/cart: spec: is required"
    assert str(violation._replace(file=None, line=None, column=None, allowed="a mapping")) == (
        "Service shop/cart: spec: is required; a mapping"
    )


def test_invalid_resources_tell_one_line_each() -> None:
    two = [Violation("A", "", "b", ""), Violation("C", "", "d", "")]

    assert str(InvalidResources(two)) == "A: b\nC: d"
    assert str(NotFound("Service shop/cart does not exist")) == "Service shop/cart does not exist"
