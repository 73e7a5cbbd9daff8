"""The reference page is what the commands say now."""

from pathlib import Path

from tulle.cli.main import COMMANDS
from tulle.cli.reference import PAGE, page

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date():
    """Renew it with `python -m tulle.cli.reference`."""
    assert (ROOT / PAGE).read_text() == page()


def test_every_command_has_a_section():
    text = page()
    for name in COMMANDS:
        assert f"### tulle {name}\n" in text
