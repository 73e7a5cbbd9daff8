"""Who gets which certificate: joins by token, renewals by the certificate one already has.

An identity never comes from what is asked for. A join gets what its token
grants; a renewal gets the identity that the hub read from the peer's certificate.
"""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tulle.control.peers import WorkloadHello, parse_workload
from tulle.errors import (
    Conflict,
    IdentityError,
    InvalidResources,
    NotPermitted,
    StoreError,
    TulleError,
)
from tulle.identity.spiffe import SpiffeId
from tulle.identity.tokens import Join, JoinTokens

if TYPE_CHECKING:
    from tulle.control.hub import Hub
    from tulle.control.workloads import Workloads
    from tulle.identity.authority import CertificateAuthority

log = logging.getLogger(__name__)

STATUSES: dict[type[Exception], int] = {
    NotPermitted: 403,
    IdentityError: 400,
    InvalidResources: 400,
    Conflict: 409,
    ValueError: 400,
    StoreError: 507,
}


class Admission:
    """Answers the hub's joins and renewals."""

    def __init__(
        self,
        hub: Hub,
        authority: CertificateAuthority,
        tokens: JoinTokens,
        workloads: Workloads,
        certificate_ttl: timedelta,
    ) -> None:
        self._hub = hub
        self._authority = authority
        self._tokens = tokens
        self._workloads = workloads
        self._ttl = certificate_ttl

    def join(self, request_id: int, body: dict[str, Any]) -> None:
        """Redeem the token, sign, register the workload, and answer with the certificate."""
        try:
            workload = parse_workload(body.get("workload"))
            identity = self._redeem(_text(body, "token"), workload)
            answer = self._certificate(_text(body, "csr_pem"), identity)
            self._workloads.register(workload, identity)
        except (TulleError, ValueError) as error:
            self._refuse(request_id, "join", error)
        else:
            self._reply(request_id, 200, answer)

    def renew(self, request_id: int, identity: str, body: dict[str, Any]) -> None:
        """Answer with a new certificate of the same identity."""
        try:
            answer = self._certificate(_text(body, "csr_pem"), SpiffeId.parse(identity))
        except (TulleError, ValueError) as error:
            self._refuse(request_id, f"renewal of {identity}", error)
        else:
            self._reply(request_id, 200, answer)

    def _redeem(self, token: str, workload: WorkloadHello) -> SpiffeId:
        join = Join(
            workload.namespace,
            workload.service_account,
            workload.name,
            self._workloads.services_of(workload),
        )
        return self._tokens.redeem(token, join).identity(self._authority.trust_domain)

    def _certificate(self, csr_pem: str, identity: SpiffeId) -> dict[str, Any]:
        svid = self._authority.sign(csr_pem, identity, self._ttl)
        return {
            "chain_pem": svid.chain_pem,
            "roots_pem": list(self._authority.roots_pem),
            "trust_domain": self._authority.trust_domain,
        }

    def _refuse(self, request_id: int, what: str, error: Exception) -> None:
        log.warning("%s refused: %s", what, error)
        status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
        self._reply(request_id, status, {"error": str(error)})

    def _reply(self, request_id: int, status: int, answer: dict[str, Any]) -> None:
        self._hub.reply(request_id, status, json.dumps(answer).encode())


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name}: must be a string")  # noqa: TRY004  one error for bad input
    return value
