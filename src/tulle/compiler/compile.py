"""Any record by its name."""

from collections.abc import Iterable

from tulle.compiler.endpoints import compile_endpoints
from tulle.compiler.service import compile_service
from tulle.compiler.workload import compile_workload
from tulle.mesh.mesh import Mesh
from tulle.record import Record, TrustRecord, record_name
from tulle.resources.model import ObjectName
from tulle.resources.service import Service
from tulle.resources.workload import Workload


def compile_trust(trust_domain: str, roots_pem: Iterable[str]) -> TrustRecord:
    """Return the record of a trust domain; the order of its roots does not matter."""
    return TrustRecord(domain=trust_domain, roots_pem=tuple(sorted(set(roots_pem))))


def compile_record(mesh: Mesh, trust: TrustRecord, name: str) -> Record | None:
    """Return the record that is published as *name*, or None if there is nothing of that name.

    Any text is a name: subscribers choose it.
    """
    if name == record_name(trust):
        return trust
    kind, _, rest = name.partition("/")
    namespace, _, object_name = rest.partition("/")
    subject = ObjectName(namespace, object_name)
    match kind:
        case "service":
            return compile_service(mesh, subject)
        case "endpoints":
            return compile_endpoints(mesh, subject, trust.domain)
        case "workload":
            return compile_workload(mesh, subject, trust.domain)
        case _:
            return None


def record_names(mesh: Mesh, trust: TrustRecord) -> list[str]:
    """Return the names of all records of *mesh*, sorted."""
    names = {record_name(trust)}
    for service in mesh.all(Service):
        names |= {f"service/{service.object_name}", f"endpoints/{service.object_name}"}
    names |= {f"workload/{workload.object_name}" for workload in mesh.all(Workload)}
    return sorted(names)
