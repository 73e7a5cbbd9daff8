"""`tulle split`: divide the traffic of a service between its versions.

A version is the label `version` of the service's workloads. The command edits
the one route rule that carries the service's traffic, or creates a route; what
it may not guess (several routes or rules) it asks for.
"""

import copy
import sys
from collections.abc import Sequence
from typing import Any

import click

from tulle.cli.client import ApiClient
from tulle.cli.commands.diff import COLOURS, unified, written
from tulle.cli.exits import CommandError, ExitCode, did_you_mean
from tulle.cli.kinds import GRPC_ROUTE, HTTP_ROUTE, SERVICE, TCP_ROUTE, WORKLOAD, Kind, label
from tulle.cli.objects import complete_service, fetch
from tulle.cli.options import Session, output_option, server_options
from tulle.cli.output import note, paint, print_json, print_yaml
from tulle.cli.tables import Object, is_parent, is_ready, items, selects, source_of

WEIGHT_MAX = 1_000_000
"""The Gateway API's limit."""
TRIES_MAX = 5
"""How often a change is sent while the control plane writes the route's status."""
VERSION_LABEL = "version"
KIND_OF_PROTOCOL = {
    "http": HTTP_ROUTE,
    "http2": HTTP_ROUTE,
    "grpc": GRPC_ROUTE,
    "tcp": TCP_ROUTE,
    "auto": HTTP_ROUTE,
}


@click.command(
    short_help="Divide the traffic of a service between its versions.",
    epilog="Example: tulle split catalog v1=90 v2=10 -n shop",
)
@click.argument("service", shell_complete=complete_service)
@click.argument("shares", nargs=-1, required=True, metavar="VERSION=WEIGHT...")
@click.option("--route", metavar="NAME", help="Route to edit, if several are about the service.")
@click.option("--rule", metavar="NAME|INDEX", help="Its rule to edit, if several could be meant.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the service.")
@click.option("--force", is_flag=True, help="Even to a version that nothing ready serves.")
@click.option("--dry-run", is_flag=True, help="Print the change only.")
@output_option("text", "yaml", "json")
@server_options
@click.pass_obj
def command(
    session: Session,
    *,
    service: str,
    shares: tuple[str, ...],
    route: str | None,
    rule: str | None,
    port: int | None,
    output: str,
    force: bool,
    dry_run: bool,
) -> None:
    """Send each VERSION of SERVICE its WEIGHT of all requests.

    A version is the label "version" of the service's workloads. Prints the
    change of the route and applies it; -o yaml --dry-run prints the route for
    a Git folder.
    """
    weights = parse_shares(shares)
    client = session.client()
    found = fetch(client, SERVICE, *session.qualify(service))
    if not force:
        _check_endpoints(client, found, weights)
    kind, number = _kind_and_port(found, port)
    before = _find_route(client, found, kind, route)
    after = (
        _edited(before, found, number, weights, rule)
        if before
        else _new(found, kind, number, weights)
    )
    _print_change(before, after, output)
    if dry_run:
        return
    answer = _apply(client, kind, before, after)
    action = answer["results"][0]["action"]
    note(f"{label(after)} {action} (revision {answer['revision']})")
    _print_advice(found, before)


def parse_shares(shares: Sequence[str]) -> dict[str, int]:
    """Return the weight of each version in `VERSION=WEIGHT` words."""
    weights: dict[str, int] = {}
    for share in shares:
        version, equals, weight = share.partition("=")
        if not version or not equals or not weight.isdecimal() or int(weight) > WEIGHT_MAX:
            raise CommandError(
                f'"{share}" is not VERSION=WEIGHT',
                code=ExitCode.USAGE,
                hint=f"a weight is a whole number up to {WEIGHT_MAX}: v1=90 v2=10",
            )
        if version in weights:
            raise CommandError(f'version "{version}" is given twice', code=ExitCode.USAGE)
        weights[version] = int(weight)
    if not any(weights.values()):
        raise CommandError(
            "all weights are 0, so every request would fail",
            code=ExitCode.USAGE,
            hint="give at least one version more than 0",
        )
    return weights


def _check_endpoints(client: ApiClient, service: Object, weights: dict[str, int]) -> None:
    """Refuse a version with a share that no ready workload of *service* serves."""
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    ready: dict[str, int] = {}
    for workload in items(client, WORKLOAD, namespace):
        version = workload["metadata"].get("labels", {}).get(VERSION_LABEL)
        if version and selects(service, workload):
            ready[version] = ready.get(version, 0) + is_ready(workload)
    missing = [version for version, weight in weights.items() if weight and not ready.get(version)]
    if not missing:
        return
    have = [f"{version} ({count} ready)" for version, count in sorted(ready.items())]
    near = did_you_mean(missing[0], ready) if missing[0] not in ready else None
    raise CommandError(
        f"no ready workload of {namespace}/{name} has the label "
        + " or ".join(f"{VERSION_LABEL}={version}" for version in missing),
        code=ExitCode.REJECTED,
        where=label(service),
        details=[f"  versions there are: {', '.join(have) or 'none'}"],
        hint=near or "start one first, or insist with --force",
    )


def _kind_and_port(service: Object, wanted: int | None) -> tuple[Kind, int]:
    ports = service["spec"].get("ports", [])
    numbers = [port["port"] for port in ports]
    if wanted is None and len(ports) > 1:
        raise CommandError(
            f"{label(service)} has several ports",
            code=ExitCode.USAGE,
            hint="name one with --port: " + ", ".join(map(str, numbers)),
        )
    if not ports or wanted not in {None, *numbers}:
        raise CommandError(
            f"{label(service)} has no port" + (f" {wanted}" if wanted else ""),
            code=ExitCode.REJECTED,
            hint="its ports are " + (", ".join(map(str, numbers)) or "none"),
        )
    port = ports[numbers.index(wanted) if wanted else 0]
    from tulle.resources.service import ServicePort

    return KIND_OF_PROTOCOL[ServicePort.model_validate(port).spoken], port["port"]


def _find_route(client: ApiClient, service: Object, kind: Kind, name: str | None) -> Object | None:
    """Return the route of *service* that is to be edited; None if there is none yet."""
    namespace = service["metadata"]["namespace"]
    routes = [route for route in items(client, kind, namespace) if is_parent(service, route)]
    names = [route["metadata"]["name"] for route in routes]
    if name is not None:
        if name not in names:
            raise CommandError(
                f'no {kind.name} "{name}" is about {label(service)}',
                code=ExitCode.NOT_FOUND,
                hint=did_you_mean(name, names) or f"there is: {', '.join(names) or 'none'}",
            )
        return routes[names.index(name)]
    if len(routes) > 1:
        raise CommandError(
            f"several routes are about {label(service)}",
            code=ExitCode.USAGE,
            hint="name one with --route: " + ", ".join(names),
        )
    return routes[0] if routes else None


def _new(service: Object, kind: Kind, port: int, weights: dict[str, int]) -> Object:
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    parent = {"group": "", "kind": "Service", "name": name, "port": port}
    refs = [_backend(name, version, port, weight) for version, weight in weights.items()]
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {"name": f"{name}-split", "namespace": namespace},
        "spec": {"parentRefs": [parent], "rules": [{"backendRefs": refs}]},
    }


def _backend(service: str, version: str, port: int, weight: int) -> Object:
    return {
        "group": "tulle.dev",
        "kind": "ServiceVersion",
        "name": f"{service}.{version}",
        "port": port,
        "weight": weight,
    }


def _edited(
    route: Object, service: Object, port: int, weights: dict[str, int], rule: str | None
) -> Object:
    """Return *route* with the weights of one rule set; what else it says is kept."""
    name = service["metadata"]["name"]
    after = copy.deepcopy(route)
    after.pop("status", None)
    chosen = _choose_rule(after, name, rule)
    old = {ref["name"]: ref for ref in chosen.get("backendRefs", ())}
    chosen["backendRefs"] = [
        old.get(f"{name}.{version}", {}) | _backend(name, version, port, weight)
        for version, weight in weights.items()
    ]
    return after


def _choose_rule(route: Object, service: str, wanted: str | None) -> dict[str, Any]:
    rules: list[dict[str, Any]] = route["spec"].setdefault("rules", [{}])
    names = [rule.get("name") or str(index) for index, rule in enumerate(rules)]
    if wanted is not None:
        if wanted in names:
            return rules[names.index(wanted)]
        if wanted.isdecimal() and int(wanted) < len(rules):
            return rules[int(wanted)]
        raise CommandError(
            f'{label(route)} has no rule "{wanted}"',
            code=ExitCode.NOT_FOUND,
            hint="its rules are " + ", ".join(names),
        )
    own = [rule for rule in rules if _is_only_about(rule, service)]
    for candidates in (own, [rule for rule in own if not rule.get("matches")]):
        if len(candidates) == 1:
            return candidates[0]
    raise CommandError(
        f"several rules of {label(route)} could be meant"
        if own
        else f"no rule of {label(route)} sends requests to {service} alone",
        code=ExitCode.USAGE,
        hint="name one with --rule: " + ", ".join(names),
    )


def _is_only_about(rule: dict[str, Any], service: str) -> bool:
    refs = rule.get("backendRefs", ())
    return all(ref["name"].partition(".")[0] == service for ref in refs)


def _apply(client: ApiClient, kind: Kind, before: Object | None, after: Object) -> Object:
    """Apply *after*, which was made from *before*; what others wrote since is not overwritten.

    The control plane writes the status of a route soon after its spec. That makes a new
    resource version, too, but is no reason to refuse, so then *after* is sent again.
    """
    for _ in range(TRIES_MAX):
        try:
            answer: Object = client.post(
                "/tulle/v1/apply", {"resources": [after], "dry_run": False}
            )
        except CommandError as error:
            if before is None or error.code is not ExitCode.CONFLICT:
                raise
            refusal = error
        else:
            return answer
        metadata = after["metadata"]
        now = fetch(client, kind, metadata["namespace"], metadata["name"])
        if written(now) != written(before):
            break
        metadata["resourceVersion"] = now["metadata"]["resourceVersion"]
    raise refusal


def _print_change(before: Object | None, after: Object, output: str) -> None:
    if output == "yaml":
        print_yaml(written(after))
    elif output == "json":
        print_json(written(after))
    else:
        metadata = after["metadata"]
        change = {
            "kind": after["kind"],
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "before": before,
            "after": after,
        }
        for line in unified(change):
            print(paint(line, COLOURS[line[0]]) if line[0] in COLOURS else line)
    sys.stdout.flush()


def _print_advice(service: Object, before: Object | None) -> None:
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    if before is not None and (source := source_of(before)):
        note(
            f"the route was written in {source}: change it there, too, or the next apply undoes it"
        )
    note(f"see its effect with: tulle edges -n {namespace} -w, or tulle tap {namespace}/{name}")
