"""How commands print: tables for people, JSON, YAML and names for programs.

Data goes to stdout, everything else to stderr. A table has no borders, upper-case
headers and three spaces between columns; what is not known is `-`; nothing is
ever cut short. Colour is never the only carrier of a meaning.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

UNKNOWN = "-"
GAP = "   "
WATCH_INTERVAL_S = 1.0
"""Sidecars report every second, so looking more often shows nothing new."""

Row = dict[str, Any]
Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its header, its cell of a row, and how it is set."""

    header: str
    cell: Callable[[Row], Cell]
    right: bool = False
    wide: bool = False


def colour_enabled(stream: IO[str], wish: str | None = None) -> bool:
    """Return whether to colour *stream*: the user's option, the environment, the terminal.

    *wish* is `auto`, `always` or `never`; None means that of the running command.
    """
    if wish is None:
        context = click.get_current_context(silent=True)
        wish = context.find_root().obj.colour if context else "auto"
    if wish != "auto":
        return bool(wish == "always")
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: IO[str] | None = None) -> str:
    """Return *text* in *colour* if *stream* (stdout) is coloured."""
    return click.style(text, fg=colour) if colour_enabled(stream or sys.stdout) else text


def symbol(state: str) -> str:
    """Return the mark of `ok`, `warning` or `failed`, in letters where the encoding needs it."""
    mark, letters, colour = {
        "ok": ("✓", "ok", "green"),
        "warning": ("!", "warn", "yellow"),
        "failed": ("✗", "FAIL", "red"),
    }[state]
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return paint(mark if utf8 else letters, colour)


def note(text: str) -> None:
    """Print *text* for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


def print_table(columns: Sequence[Column], rows: Sequence[Row], *, wide: bool = False) -> None:
    """Print *rows*; columns marked wide only when *wide*. Nothing, if there are none."""
    if rows:
        print("\n".join(table_lines([c for c in columns if wide or not c.wide], rows)))


def table_lines(columns: Sequence[Column], rows: Iterable[Row]) -> list[str]:
    """Return the header and a line per row, columns aligned, numbers to the right."""
    cells = [[_text(column.cell(row)) for column in columns] for row in rows]
    grid = [[column.header for column in columns], *cells]
    widths = [max(len(line[i]) for line in grid) for i in range(len(columns))]
    return [
        GAP.join(
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in grid
    ]


def _text(cell: Cell) -> str:
    return UNKNOWN if cell is None or cell == "" else str(cell)


def print_json(value: object) -> None:
    """Print *value* as one JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_ndjson(value: object) -> None:
    """Print *value* as one line of JSON, at once."""
    print(json.dumps(value, ensure_ascii=False, separators=(",", ":")), flush=True)


def to_yaml(value: object) -> str:
    """Return *value* as block YAML with keys in the order given."""
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
    return text


def print_yaml(value: object) -> None:
    """Print *value* as one YAML document."""
    print(to_yaml(value), end="")


def as_list(items: Sequence[object]) -> dict[str, object]:
    """Return the object that `-o json` and `-o yaml` print for several things."""
    return {"apiVersion": "v1", "kind": "List", "items": list(items)}


def print_rows(output: str, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Print *rows* in the form *output*: table, wide, json, yaml or name (first column)."""
    if output == "json":
        print_json(as_list(rows))
    elif output == "yaml":
        print_yaml(as_list(rows))
    elif output == "name":
        for row in rows:
            print(_text(columns[0].cell(row)))
    else:
        print_table(columns, rows, wide=output == "wide")


def repeat(show: Callable[[], None]) -> Iterator[None]:
    """Call *show* every second until interrupted; on a terminal each takes the other's place."""
    while True:
        if sys.stdout.isatty():
            print("\x1b[H\x1b[2J", end="")
        show()
        sys.stdout.flush()
        yield
        time.sleep(WATCH_INTERVAL_S)


def show_or_watch(show: Callable[[], None], *, watch: bool) -> None:
    """Call *show* once, or until interrupted if *watch*."""
    if not watch:
        show()
        return
    for _ in repeat(show):
        pass


def age(timestamp: str | None, now: datetime | None = None) -> str | None:
    """Return how long ago the RFC 3339 *timestamp* was, as `42s`, `5m`, `3h` or `12d`."""
    if timestamp is None:
        return None
    then = datetime.fromisoformat(timestamp)
    return duration_text(((now or datetime.now(UTC)) - then).total_seconds())


def duration_text(seconds: float) -> str:
    """Return *seconds* in the largest unit of which there are at least two."""
    whole = max(0, int(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= 2 * size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def percent(share: float | None) -> str | None:
    """Return *share* of 1 as `99.95%`; None stays None, for no traffic is not 0%."""
    return None if share is None else f"{share * 100:.2f}%"


def milliseconds(value: float | None) -> str | None:
    """Return *value* with as many digits as matter."""
    if value is None:
        return None
    return f"{value:.0f}ms" if value >= 10 else f"{value:.1f}ms"


def megabytes(count: int | None) -> str | None:
    """Return *count* bytes in MiB."""
    return None if count is None else f"{count / 2**20:.1f}MiB"


def labels_text(labels: Mapping[str, str] | None) -> str | None:
    """Return *labels* as `a=b,c=d`."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or None


def counted(count: int, noun: str) -> str:
    """Return `1 warning` or `3 warnings`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
