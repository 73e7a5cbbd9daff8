"""Virtual addresses of Services: given once, kept in the status, never given to two.

They stand for a Service where a sidecar intercepts traffic, as a cluster IP does in Kubernetes.
The search for a free one begins where the name's hash points, so that a store that is written
anew mostly gives the same ones.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from tulle.errors import InvalidResources, StoreError, Violation
from tulle.mesh.change import Delete, Put
from tulle.mesh.mesh import Mesh
from tulle.resources.model import ObjectName
from tulle.resources.service import VIRTUAL_IPV4, VIRTUAL_IPV6, Service, ServiceStatus

NUMBERS_MAX = 2**16 - 2
"""Numbers of the range but its first and last one, which look like a network and a broadcast."""


def with_addresses(mesh: Mesh, changes: Sequence[Put | Delete]) -> list[Put | Delete]:
    """Return *changes* so that every Service they write has an address of its own.

    One that *mesh* has already keeps what it has, whatever a change says of it.

    Raises:
        InvalidResources: a Service asks for the cluster IP of another one.
        StoreError: all addresses are taken.
    """
    services = {
        change.resource.object_name: change.resource
        for change in changes
        if isinstance(change, Put) and isinstance(change.resource, Service)
    }
    if not services:
        return list(changes)
    _check_cluster_ips(mesh, services)
    used = _numbers(mesh)
    addresses = {name: _given(mesh.service(name)) or _give(name, used) for name in sorted(services)}
    return [
        _addressed(change, change.resource, addresses[change.resource.object_name])
        if isinstance(change, Put) and isinstance(change.resource, Service)
        else change
        for change in changes
    ]


def _addressed(change: Put, service: Service, addresses: tuple[str, ...]) -> Put:
    status = (service.status or ServiceStatus()).model_copy(update={"addresses": addresses})
    if change.mode == "status":
        return replace(change, resource=service.model_copy(update={"status": status}))
    return replace(change, first_status=ServiceStatus(addresses=addresses))


def _given(service: Service | None) -> tuple[str, ...]:
    return service.status.addresses if service is not None and service.status is not None else ()


def missing_addresses(mesh: Mesh) -> list[Put]:
    """Return the changes of the status that make `with_addresses` give what is missing."""
    return [Put(each, mode="status") for each in mesh.all(Service) if not _given(each)]


def addresses_of(service: Service) -> tuple[str, ...]:
    """Return the addresses that stand for *service*: its cluster IPs, or else what it was given.

    None for a headless Service and for one that is only another name.
    """
    spec = service.spec
    if spec.is_headless or spec.type == "ExternalName":
        return ()
    if asked := cluster_ips(service):
        return asked
    return _given(service)


def cluster_ips(service: Service) -> tuple[str, ...]:
    """Return the cluster IPs that *service* asks for, in normal form."""
    asked = (service.spec.cluster_ip, *service.spec.cluster_ips)
    found = [str(ip_address(one)) for one in asked if one and one != "None"]
    return tuple(dict.fromkeys(found))


def _check_cluster_ips(mesh: Mesh, services: Mapping[ObjectName, Service]) -> None:
    owners = {
        address: service.object_name
        for service in mesh.all(Service)
        if service.object_name not in services
        for address in cluster_ips(service)
    }
    violations = []
    for name, service in services.items():
        for address in cluster_ips(service):
            if owners.setdefault(address, name) != name:
                message = f"{address} is the cluster IP of Service {owners[address]}"
                violations.append(
                    Violation(str(service.key), "spec.clusterIP", message, "one that is free")
                )
    if violations:
        raise InvalidResources(violations)


def _numbers(mesh: Mesh) -> set[int]:
    """Return the numbers of all addresses that were given."""
    given = filter(None, map(_given, mesh.all(Service)))
    return {int(IPv4Address(addresses[0])) - int(VIRTUAL_IPV4[0]) for addresses in given}


def _give(name: ObjectName, used: set[int]) -> tuple[str, str]:
    """Take a free number; return it as an IPv4 and an IPv6 address."""
    start = zlib.crc32(str(name).encode())
    for step in range(NUMBERS_MAX):
        number = 1 + (start + step) % NUMBERS_MAX
        if number not in used:
            used.add(number)
            v4 = IPv4Address(int(VIRTUAL_IPV4[0]) + number)
            return str(v4), str(IPv6Address(int(VIRTUAL_IPV6[0]) + number))
    raise StoreError(f"all {NUMBERS_MAX} addresses are given to Services; delete some")
