"""Resource files: read, parsed with every mistake, and sent with where each thing was written."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tulle.cli.exits import CommandError, ExitCode
from tulle.errors import Violation
from tulle.resources.parse import Parsed, attach_source, parse_texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SUFFIXES = {".yaml", ".yml", ".json"}
STDIN = "-"
FILE_BYTES_MAX = 4 * 1024 * 1024
"""The control plane takes no more in one batch."""


@dataclass(frozen=True, slots=True)
class Manifests:
    """The resources of some files."""

    parsed: tuple[Parsed, ...]
    objects: list[dict[str, Any]]
    """As they are sent: with a namespace, and annotated with file and lines."""

    def locate(self, violation: Violation) -> Violation:
        """Return *violation* with the file, line and column it is about."""
        for parsed in self.parsed:
            if str(parsed.resource.key) == violation.resource:
                line, column = parsed.place(violation.path) or (None, None)
                return violation._replace(file=parsed.file, line=line, column=column)
        return violation


def read_manifests(paths: Sequence[str], namespace: str) -> Manifests:
    """Parse all files of *paths*; resources that name no namespace get *namespace*.

    Raises:
        InvalidResources: something is wrong; holds every violation of every file.
        CommandError: a path cannot be read, or holds no manifest.
    """
    parsed = parse_texts(_texts(paths), namespace)
    return Manifests(parsed, [attach_source(one).to_object() for one in parsed])


def _texts(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    for path in paths:
        if path == STDIN:
            yield "stdin", sys.stdin.read(FILE_BYTES_MAX + 1)
            continue
        for file in _files(Path(path)):
            yield str(file), _read(file)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not found:
        raise CommandError(
            f'"{path}" holds no manifest',
            code=ExitCode.USAGE,
            hint="manifests end in .yaml, .yml or .json",
        )
    return found


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise CommandError(f'"{file}" is larger than 4 MiB', code=ExitCode.REJECTED)
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(f'"{file}" is not UTF-8 text', code=ExitCode.REJECTED) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CommandError(f'cannot read "{file}": {reason}', code=ExitCode.USAGE) from error
