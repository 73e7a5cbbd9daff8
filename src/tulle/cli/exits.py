"""Exit codes, and the one exception that carries a message and a code to ``main``."""

import difflib
from collections.abc import Iterable, Sequence
from enum import IntEnum

from tulle.errors import (
    AlreadyExists,
    Conflict,
    Gone,
    InvalidResources,
    NotFound,
    NotPermitted,
    SettingsError,
    TimedOut,
    TulleError,
    Unreachable,
)


class ExitCode(IntEnum):
    """What a script can rely on; the table is in `docs/reference/commands.md`."""

    OK = 0
    NO = 1
    USAGE = 2
    REJECTED = 3
    NOT_FOUND = 4
    UNREACHABLE = 5
    FORBIDDEN = 6
    TIMED_OUT = 7
    CONFLICT = 8
    BUG = 70
    INTERRUPTED = 130
    BROKEN_PIPE = 141


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done; yes; no differences; all checks passed",
    ExitCode.NO: "the answer is no: a check failed, the request is denied, there are differences",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.REJECTED: "the input was rejected, and nothing was changed",
    ExitCode.NOT_FOUND: "not found",
    ExitCode.UNREACHABLE: "the control plane cannot be reached",
    ExitCode.FORBIDDEN: "not authenticated or not permitted",
    ExitCode.TIMED_OUT: "timed out",
    ExitCode.CONFLICT: "conflict: somebody else changed the object first",
    ExitCode.BUG: "a bug in Tulle; the path of the traceback is printed",
    ExitCode.INTERRUPTED: "Ctrl-C",
    ExitCode.BROKEN_PIPE: "the reader of the output went away",
}


CODES: tuple[tuple[type[TulleError], ExitCode], ...] = (
    (InvalidResources, ExitCode.REJECTED),
    (SettingsError, ExitCode.USAGE),
    (NotFound, ExitCode.NOT_FOUND),
    (AlreadyExists, ExitCode.CONFLICT),
    (Conflict, ExitCode.CONFLICT),
    (Gone, ExitCode.CONFLICT),
    (NotPermitted, ExitCode.FORBIDDEN),
    (Unreachable, ExitCode.UNREACHABLE),
    (TimedOut, ExitCode.TIMED_OUT),
)


class CommandError(TulleError):
    """A command cannot do what was asked.

    `message` says what happened, `where` the object or address it happened to,
    `details` are lines printed as they are, `hint` is what to do next.
    """

    def __init__(
        self,
        message: str,
        *,
        code: ExitCode = ExitCode.NO,
        where: str | None = None,
        details: Sequence[str] = (),
        hint: str | None = None,
    ) -> None:
        """Keep what `main` prints and exits with."""
        super().__init__(message)
        self.message = message
        self.code = code
        self.where = where
        self.details = tuple(details)
        self.hint = hint


def exit_code(error: TulleError) -> ExitCode:
    """Return the code of *error*; errors without one of their own are a plain no."""
    if isinstance(error, CommandError):
        return error.code
    return next((code for kind, code in CODES if isinstance(error, kind)), ExitCode.NO)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return `did you mean "x"?` with the nearest of *known*, or None if none is near."""
    near = difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.6)
    if not near:
        return None
    return "did you mean " + " or ".join(f'"{word}"' for word in near) + "?"
