"""The identity of a workload: spiffe://<trust domain>/ns/<namespace>/sa/<service account>."""

import re
from dataclasses import dataclass
from typing import Self

from tulle.errors import IdentityError

SCHEME = "spiffe://"

# The SPIFFE-ID standard, 2.1 and 2.2, narrowed to the names that Kubernetes allows.
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SERVICE_ACCOUNT = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A valid identity; `str` gives its URI.

    Raises:
        IdentityError: one of the parts is not allowed.
    """

    trust_domain: str
    namespace: str
    service_account: str

    def __post_init__(self) -> None:
        check_trust_domain(self.trust_domain)
        if not _NAMESPACE.fullmatch(self.namespace):
            raise IdentityError(f'namespace "{self.namespace}" is not a DNS label')
        if not _SERVICE_ACCOUNT.fullmatch(self.service_account):
            raise IdentityError(f'service account "{self.service_account}" is not a DNS name')

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Return the identity that *uri* is.

        Raises:
            IdentityError: *uri* is not of the form that tulle issues.
        """
        parts = uri.removeprefix(SCHEME).split("/")
        if not uri.startswith(SCHEME) or len(parts) != 5 or parts[1::2] != ["ns", "sa"]:
            raise IdentityError(
                f'"{uri}" is not an identity; '
                "spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
            )
        return cls(parts[0], parts[2], parts[4])

    @property
    def principal(self) -> str:
        """The form that policies use: the URI without its scheme."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    def __str__(self) -> str:
        return SCHEME + self.principal


def check_trust_domain(trust_domain: str) -> None:
    """Refuse a name that cannot be a trust domain.

    Raises:
        IdentityError: *trust_domain* is not allowed.
    """
    if not _TRUST_DOMAIN.fullmatch(trust_domain):
        raise IdentityError(
            f'trust domain "{trust_domain}" is not allowed; '
            'up to 255 lower-case letters, digits, ".", "-" and "_"'
        )
