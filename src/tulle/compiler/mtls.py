"""Whether a workload's sidecar insists on mutual TLS: strict unless a policy says otherwise."""

from dataclasses import dataclass

from tulle.mesh.mesh import Mesh
from tulle.mesh.select import peer_authentications
from tulle.record.workload import MtlsMode
from tulle.resources.peerauthentication import MutualTls
from tulle.resources.workload import Workload

_MODES: dict[str, MtlsMode] = {
    "STRICT": "strict",
    "PERMISSIVE": "permissive",
    "DISABLE": "disable",
}


@dataclass(frozen=True, slots=True)
class Mtls:
    """The mode of a workload, and of its ports that differ, by the app's port number."""

    mode: MtlsMode
    ports: tuple[tuple[int, MtlsMode], ...]

    def at(self, port: int) -> MtlsMode:
        """Return the mode of the app's *port*."""
        return dict(self.ports).get(port, self.mode)


def mtls_of(mesh: Mesh, workload: Workload) -> Mtls:
    """Return how callers of *workload* must come, by the policy that is in force for it."""
    policies = peer_authentications(mesh, workload)
    if not policies:
        return Mtls("strict", ())
    spec = policies[0].spec
    ports = ((int(port), _mode(mtls)) for port, mtls in spec.port_level_mtls.items())
    return Mtls(_mode(spec.mtls), tuple(sorted(ports)))


def _mode(mtls: MutualTls) -> MtlsMode:
    return _MODES[mtls.mode]
