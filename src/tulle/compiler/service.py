"""The record of a Service: its ports, the routes attached to them, its traffic policy."""

from tulle.compiler.tables import compile_tables
from tulle.compiler.traffic import compile_traffic
from tulle.mesh.addresses import addresses_of
from tulle.mesh.mesh import Mesh
from tulle.record.service import Port, Protocol, ServiceRecord, Table
from tulle.record.traffic import Traffic
from tulle.resources.model import ObjectName
from tulle.resources.service import Service, ServicePort


def compile_service(mesh: Mesh, name: ObjectName) -> ServiceRecord | None:
    """Return the record of the Service *name*, or None if there is no such Service.

    Ports come by number; those that are not TCP are left out.
    """
    service = mesh.service(name)
    if service is None:
        return None
    traffic = compile_traffic(mesh, name)
    ports = sorted(service.spec.ports, key=lambda port: port.port)
    return ServiceRecord(
        namespace=name.namespace,
        name=name.name,
        addresses=addresses_of(service),
        ports=tuple(
            _port(mesh, service, port, traffic) for port in ports if port.protocol == "TCP"
        ),
        traffic=traffic,
    )


def _port(mesh: Mesh, service: Service, port: ServicePort, traffic: Traffic) -> Port:
    tables = compile_tables(mesh, service, port, traffic)
    return Port(
        number=port.port, name=port.name, protocol=_protocol(port.spoken, tables), tables=tables
    )


def _protocol(spoken: Protocol, tables: tuple[Table, ...]) -> Protocol:
    """Return what is spoken on a port whose producer attached routes of one kind.

    A TCPRoute or TLSRoute asks for the bytes as they are; an HTTPRoute or a GRPCRoute says what
    a port carries that nobody declared.
    """
    kinds = {table.kind for table in tables if table.consumer_namespace is None}
    if kinds & {"tls", "tcp"}:
        return "tcp"
    if spoken == "auto" and "http" in kinds:
        return "http"
    if "grpc" in kinds and spoken in {"auto", "http"}:
        return "grpc"
    return spoken
