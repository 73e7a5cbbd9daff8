"""The terminal of `tulle up`: prefixes, colours, and nothing that tears other lines."""

from io import StringIO

from tulle.local.output import Console, colored_prefix


def shown(text: str, **options: bool) -> str:
    out = StringIO()
    console = Console(out, color=False, width=6, **options)
    console.line("web-1", text)
    console.state("web-1", "ready", "127.0.0.1:80")
    return out.getvalue()


def test_lines_carry_their_process_and_states_stand_in_columns() -> None:
    assert shown("hello") == "web-1  | hello\nweb-1   ready      127.0.0.1:80\n"


def test_cursor_movements_are_taken_out_and_colours_stay() -> None:
    told = shown("a\x1b[2Jb\x1b[31mred\x1b[0m\x07\rc", states=False)

    assert told == "web-1  | ab\x1b[31mred\x1b[0mc\n"


def test_quiet_leaves_states_and_drops_lines() -> None:
    assert shown("hello", quiet=True) == "web-1   ready      127.0.0.1:80\n"


def test_a_process_has_one_colour() -> None:
    colored = colored_prefix("web-1", 6, color=True)

    assert colored == colored_prefix("web-1", 6, color=True)
    assert colored.startswith("\x1b[")
    assert colored_prefix("web-1", 6, color=False) == "web-1  | "
