"""Every error that Tulle's Python raises on purpose, in one tree.

TulleError
├── InvalidResources   what a user wrote is wrong; holds every violation
├── SettingsError      a flag, a settings file or an environment variable is wrong
├── NotFound           no such object
├── AlreadyExists      an object of this name is there already
├── Conflict           the object changed since the caller read it
├── Gone               a watch or a list asks for a revision that is no longer kept
├── StoreError         the store cannot be opened, read or written
├── IdentityError      a certificate, key, signing request or SPIFFE id is not acceptable
├── NotPermitted       the caller may not do this: bad token, foreign identity
├── Unreachable        nobody answers at an address
├── TimedOut           a bounded wait ended without the awaited condition
└── StartError         a process cannot be started: missing command, busy port, early exit

This module imports the standard library only and is cheap: the sidecar host loads it.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Violation(NamedTuple):
    """One thing that is wrong in one resource.

    `line` and `column` count from 1 and are None when the object did not come from text.
    """

    resource: str
    """Kind and name, such as `HTTPRoute shop/cart`; empty when not even that is known."""
    path: str
    """Where in the object: `spec.rules[0].matches[1].path`; empty for the whole object."""
    message: str
    """What is wrong, lower case, no full stop."""
    allowed: str
    """What would be right; empty when the message says it all."""
    line: int | None = None
    column: int | None = None
    file: str | None = None

    def __str__(self) -> str:
        """Return `file:line:column: resource: path: what is wrong; what is allowed`."""
        place = ":".join(
            str(part) for part in (self.file, self.line, self.column) if part is not None
        )
        what = f"{self.message}; {self.allowed}" if self.allowed else self.message
        return ": ".join(part for part in (place, self.resource, self.path, what) if part)


class TulleError(Exception):
    """The root of the tree; `str(error)` is one or more lines fit for a user."""


class InvalidResources(TulleError):
    """Resources were refused; nothing was changed."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        """Keep *violations*, all of them, in the order of the text they came from."""
        self.violations = tuple(violations)
        super().__init__(self.violations)

    def __str__(self) -> str:
        """Return one line per violation."""
        return "\n".join(str(violation) for violation in self.violations)


class SettingsError(TulleError):
    """A process was given settings it cannot run with."""


class NotFound(TulleError):
    """The named object does not exist."""


class AlreadyExists(TulleError):
    """An object of this kind and name exists already."""


class Conflict(TulleError):
    """The object is not at the resource version the caller expects."""


class Gone(TulleError):
    """The revision asked for is older than the history that is kept; list again."""


class StoreError(TulleError):
    """The store cannot be opened, read or written."""


class IdentityError(TulleError):
    """A certificate, key, signing request or SPIFFE id is not acceptable."""


class NotPermitted(TulleError):
    """The caller is not who it must be, or may not do what it asks for."""


class Unreachable(TulleError):
    """Nobody answers at the address tried."""


class TimedOut(TulleError):
    """A bounded wait ended before the awaited condition came true."""


class StartError(TulleError):
    """A process of the mesh or of the user cannot be started."""
