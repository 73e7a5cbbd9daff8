"""The reference page: made from the models, and what is in the repository is current."""

from pathlib import Path

from tulle.resources.reference import PAGE, page
from tulle.resources.registry import KINDS

ROOT = Path(__file__).parent.parent.parent


def test_every_kind_has_a_section() -> None:
    sections = [line for line in page().splitlines() if line.startswith("## ")]

    assert sections == [*(f"## {name}" for name in KINDS), "## metadata"]


def test_a_row_tells_path_type_bounds_and_default() -> None:
    rows = page().splitlines()

    assert (
        "| `spec.rules[].backendRefs[].weight` | integer 0 to 1000000 | Its share is its weight "
        "by the sum of all weights of the rule; 0 gets nothing. Default: `1`. |"
    ) in rows


def test_the_page_in_the_repository_is_what_the_models_say() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(), "run make docs"
