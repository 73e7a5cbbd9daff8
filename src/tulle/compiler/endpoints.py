"""The record of a Service's endpoints: where it can be reached right now."""

from tulle.compiler.mtls import mtls_of
from tulle.identity.spiffe import SpiffeId
from tulle.mesh.mesh import Mesh
from tulle.mesh.select import Endpoint as Selected
from tulle.mesh.select import endpoints
from tulle.record.endpoints import Endpoint, EndpointsRecord
from tulle.resources.model import ObjectName


def compile_endpoints(mesh: Mesh, name: ObjectName, trust_domain: str) -> EndpointsRecord | None:
    """Return the record of the Service *name*'s endpoints, or None if there is no such Service."""
    if mesh.service(name) is None:
        return None
    found = (_endpoint(mesh, selected, trust_domain) for selected in endpoints(mesh, name))
    return EndpointsRecord(
        namespace=name.namespace,
        name=name.name,
        endpoints=tuple(sorted(found, key=lambda endpoint: endpoint.workload)),
    )


def _endpoint(mesh: Mesh, selected: Selected, trust_domain: str) -> Endpoint:
    workload, ports = selected
    mtls = mtls_of(mesh, workload)
    listens = {listen for _, listen in ports}
    modes = {mtls.at(port.port) for port in workload.spec.ports if port.listen in listens}
    identity = SpiffeId(
        trust_domain, workload.metadata.namespace or "", workload.spec.service_account
    )
    return Endpoint(
        workload=str(workload.object_name),
        address=workload.spec.address,
        ports=ports,
        identity=str(identity),
        labels=workload.metadata.labels,
        zone=workload.spec.zone,
        tls=modes != {"disable"},
    )
