"""Whom a trust domain trusts."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TrustRecord:
    """The root certificates of a trust domain, each one PEM block."""

    domain: str
    roots_pem: tuple[str, ...]
    kind: Literal["trust"] = "trust"
