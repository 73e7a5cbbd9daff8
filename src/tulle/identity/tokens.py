"""Join tokens: how a new workload proves what it may become.

A token is "<id>.<secret>". The secret has 256 random bits, so its plain SHA-256 can be
stored without salt or stretching: there is nothing to guess. A token is good for one
namespace and service account, and perhaps one service or workload, until it expires, for
so many uses. A use is taken with compare-and-set, so two that come at once take two.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from tulle.errors import Conflict, NotFound, NotPermitted
from tulle.identity.spiffe import SpiffeId

SECRET_BYTES = 32
ID_BYTES = 8
_ID = re.compile(rf"[0-9a-f]{{{2 * ID_BYTES}}}")
TOKEN_CHARS_MAX = 256
LIFETIME_MAX = timedelta(days=365)
USES_MAX = 100_000
"""For a token in the unit file of a scaled service; most have one use."""

Clock = Callable[[], datetime]
"""Returns the time now, with a time zone."""


class Document(Protocol):
    """A JSON object as it is stored."""

    @property
    def name(self) -> str:
        """Its key."""

    @property
    def version(self) -> int:
        """Grows with each change."""

    @property
    def value(self) -> Any:
        """What was put."""


class Documents(Protocol):
    """Where tokens are kept: JSON objects by name, changed by compare-and-set."""

    def get(self, name: str) -> Document:
        """Return the document of this name, or raise NotFound."""

    def all(self) -> Sequence[Document]:
        """Return every document by name."""

    def put(self, name: str, value: dict[str, Any], expected: int) -> int:
        """Write, and return the new version; raise Conflict if not *expected* is there.

        An *expected* of 0 means that there must be no document yet.
        """

    def delete(self, name: str) -> None:
        """Remove the document of this name, or raise NotFound."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What the holder of a token may become; `None` leaves that open."""

    namespace: str
    service_account: str
    service: str | None = None
    workload: str | None = None

    def identity(self, trust_domain: str) -> SpiffeId:
        """Return the identity that a join with this token leads to."""
        return SpiffeId(trust_domain, self.namespace, self.service_account)


@dataclass(frozen=True, slots=True)
class Join:
    """What the holder of a token asks to become; `services` are those that select it."""

    namespace: str
    service_account: str
    workload: str
    services: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token; the secret is not."""

    id: str
    grant: Grant
    expires: datetime
    uses_left: int


class JoinTokens:
    """Makes, checks and revokes join tokens."""

    def __init__(self, documents: Documents, clock: Clock) -> None:
        """Keep tokens in *documents* and expire them by *clock*."""
        self._documents = documents
        self._clock = clock

    def create(self, grant: Grant, lifetime: timedelta, uses: int = 1) -> tuple[str, Token]:
        """Return a new token as the holder writes it, this once, and what is known of it.

        Raises:
            ValueError: *lifetime* or *uses* is not allowed.
        """
        if not timedelta(0) < lifetime <= LIFETIME_MAX:
            raise ValueError(
                f"token lifetime {lifetime} is not allowed; up to {LIFETIME_MAX.days} days"
            )
        if not 1 <= uses <= USES_MAX:
            raise ValueError(f"{uses} uses are not allowed; 1 to {USES_MAX}")
        secret = secrets.token_urlsafe(SECRET_BYTES)
        token = Token(secrets.token_hex(ID_BYTES), grant, self._clock() + lifetime, uses)
        self._documents.put(token.id, _to_document(token, _hash(secret)), 0)
        return f"{token.id}.{secret}", token

    def redeem(self, text: str, join: Join) -> Grant:
        """Take one use of the token *text* for *join*, and return what it grants.

        Raises:
            NotPermitted: the token is unknown, expired or used up, or not for this *join*.
                What is wrong is told only to one who holds the secret.
        """
        id_, _, secret = text[:TOKEN_CHARS_MAX].partition(".")
        while True:
            found = self._find(id_)
            digest = found.value["hash"] if found else _hash("")
            if not hmac.compare_digest(digest, _hash(secret)) or found is None:
                raise NotPermitted("join token: is not known here")
            token = _from_document(found)
            self._check(token, join)
            used = replace(token, uses_left=token.uses_left - 1)
            # A conflict means that another join took a use: the loop ends with the uses.
            with suppress(Conflict):
                self._documents.put(id_, _to_document(used, digest), found.version)
                return token.grant

    def valid(self) -> list[Token]:
        """Return all tokens that are not expired, by id; used-up ones too."""
        now = self._clock()
        return [token for token in self._all() if token.expires > now]

    def revoke(self, id_: str) -> bool:
        """Make a token useless at once, and say whether it was there."""
        if not _ID.fullmatch(id_):
            return False
        try:
            self._documents.delete(id_)
        except NotFound:
            return False
        return True

    def forget_expired(self) -> int:
        """Remove expired tokens from the store, and return how many."""
        now = self._clock()
        return sum(self.revoke(token.id) for token in self._all() if token.expires <= now)

    def _find(self, id_: str) -> Document | None:
        if not _ID.fullmatch(id_):
            return None
        try:
            return self._documents.get(id_)
        except NotFound:
            return None

    def _all(self) -> list[Token]:
        return [_from_document(document) for document in self._documents.all()]

    def _check(self, token: Token, join: Join) -> None:
        grant = token.grant
        if token.expires <= self._clock():
            raise NotPermitted(f"join token {token.id}: expired {token.expires:%Y-%m-%d %H:%M:%S}")
        if token.uses_left < 1:
            raise NotPermitted(f"join token {token.id}: was used already")
        for what, bound, asked in (
            ("namespace", grant.namespace, join.namespace),
            ("service account", grant.service_account, join.service_account),
            ("workload", grant.workload, join.workload),
        ):
            if bound not in (None, asked):
                raise NotPermitted(f'join token {token.id}: is for {what} "{bound}", not "{asked}"')
        if grant.service is not None and grant.service not in join.services:
            raise NotPermitted(f'join token {token.id}: is for service "{grant.service}" only')


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _to_document(token: Token, digest: str) -> dict[str, Any]:
    return {
        "hash": digest,
        "grant": asdict(token.grant),
        "expires": token.expires.isoformat(),
        "uses_left": token.uses_left,
    }


def _from_document(document: Document) -> Token:
    value = document.value
    return Token(
        id=document.name,
        grant=Grant(**value["grant"]),
        expires=datetime.fromisoformat(value["expires"]),
        uses_left=value["uses_left"],
    )
