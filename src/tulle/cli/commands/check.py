"""`tulle check`: a doctor that says what is wrong and what to do about it."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import click

import tulle
from tulle.cli.client import ApiClient
from tulle.cli.exits import CommandError, ExitCode
from tulle.cli.kinds import KINDS, SERVICE, WORKLOAD, label
from tulle.cli.options import DURATION, Session, output_option, server_options
from tulle.cli.output import counted, print_json, symbol
from tulle.cli.tables import Object, is_ready, items, selects

EXPIRY_WARNING_DAYS = 30
"""Time enough to renew a root everywhere without hurry."""
RETRY_S = 1.0


class Finding(NamedTuple):
    """What one check found."""

    description: str
    result: str = "ok"
    """`ok`, `warning` or `failed`."""
    error: str | None = None
    hint: str | None = None
    """A command, or a sentence, that leads out."""


Check = Callable[[ApiClient], Iterator[Finding]]


@click.command(
    short_help="Look for problems and say how to solve them.",
    epilog="Example: tulle check --wait 30s",
)
@click.option(
    "--wait", "wait_s", type=DURATION, default="0s", metavar="DURATION", help="Until all passes."
)
@output_option("text", "short", "json")
@server_options
@click.pass_obj
def command(session: Session, wait_s: float, output: str) -> None:
    """Check the control plane, its certificates, the sidecars and the resources.

    Nothing is changed and nothing outside the mesh is called. Exits with 1 if
    a check failed; warnings do not count.
    """
    deadline = time.monotonic() + wait_s
    while True:
        categories = examine(session)
        failed = any(f.result == "failed" for _, found in categories for f in found)
        if not failed or time.monotonic() >= deadline:
            break
        time.sleep(RETRY_S)
    if output == "json":
        print_json(_as_json(categories, success=not failed))
    else:
        _print(categories, short=output == "short")
    sys.exit(ExitCode.NO if failed else ExitCode.OK)


def examine(session: Session) -> list[tuple[str, list[Finding]]]:
    """Run all checks; when the API does not answer, no other can say anything."""
    try:
        client = session.client()
        categories = [("control plane", list(control_plane(client)))]
    except CommandError as error:
        return [("control plane", [_failure("the API answers", error)])]
    for title, check in CHECKS:
        try:
            found = list(check(client))
        except CommandError as error:
            found = [_failure(f"{title} can be read", error)]
        categories.append((title, found))
    return categories


def _failure(description: str, error: CommandError) -> Finding:
    where = f" ({error.where})" if error.where else ""
    return Finding(description, "failed", error.message + where, error.hint)


def control_plane(client: ApiClient) -> Iterator[Finding]:
    """Check that the API answers, is ready, and is of our version."""
    started = time.monotonic()
    client.text("/livez")
    yield Finding(f"the API answers ({(time.monotonic() - started) * 1000:.0f} ms)")
    client.text("/readyz")
    yield Finding("the control plane is ready")
    server = client.get("/version")["version"]
    if server == tulle.__version__:
        yield Finding(f"client and server are of version {server}")
    else:
        yield Finding(
            "client and server are of the same version",
            "warning",
            f"client {tulle.__version__}, server {server}",
            "install the same version on both sides, then restart the server",
        )


def identity(client: ApiClient) -> Iterator[Finding]:
    """Check how long the certificates that everything trusts are valid."""
    from datetime import UTC, datetime

    from cryptography import x509

    bundle = client.text("/tulle/v1/ca/bundle").encode()
    for certificate in x509.load_pem_x509_certificates(bundle):
        days = (certificate.not_valid_after_utc - datetime.now(UTC)).days
        name = certificate.subject.rfc4514_string()
        what = f"the root {name} is valid for {days} days"
        if days < EXPIRY_WARNING_DAYS:
            yield Finding(
                what,
                "failed" if days < 0 else "warning",
                f"until {certificate.not_valid_after_utc:%Y-%m-%d}",
                "start a control plane on a new data folder and let the sidecars join it",
            )
        else:
            yield Finding(what)


def data_plane(client: ApiClient) -> Iterator[Finding]:
    """Check that each sidecar is connected, ready, and took every record."""
    proxies = client.get("/tulle/v1/proxies")["proxies"]
    problems = [finding for proxy in proxies for finding in _proxy_problems(proxy)]
    healthy = len(proxies) - len({finding.description.split()[0] for finding in problems})
    yield Finding(f"{healthy} of {len(proxies)} sidecars are connected, ready and in sync")
    yield from problems


def _proxy_problems(proxy: dict[str, Any]) -> Iterator[Finding]:
    name = proxy["workload"]
    if not proxy["connected"]:
        yield Finding(
            f"{name} is connected",
            "failed",
            "its sidecar went away; it may still serve with what it held",
            "look at it with: tulle ps",
        )
        return
    if proxy["draining"]:
        yield Finding(f"{name} takes traffic", "warning", "it is draining", "tulle ps")
    elif not proxy["ready"]:
        app = name.partition("/")[2]
        yield Finding(
            f"{name} is ready", "failed", "its probe does not succeed", f"tulle logs {app}"
        )
    for record in proxy["records"]:
        if record["error"]:
            yield Finding(
                f"{name} accepts {record['name']}",
                "failed",
                f"{record['error']}; the one before stays in force",
                f"tulle proxy status {name}",
            )
    if proxy["version"] not in {None, tulle.__version__}:
        yield Finding(
            f"{name} is of version {tulle.__version__}",
            "warning",
            f"its sidecar is {proxy['version']}",
            f"tulle restart {name.partition('/')[2]}",
        )


def resources(client: ApiClient) -> Iterator[Finding]:
    """Check that services have endpoints, and what resources say of each other."""
    from tulle.mesh.check import findings
    from tulle.mesh.mesh import Mesh
    from tulle.resources.parse import parse_each

    objects = [item for kind in KINDS for item in items(client, kind)]
    resources, wrong = parse_each(objects)
    problems = [
        Finding(
            f"{violation.resource} is applied",
            "failed",
            f"it is set aside: {violation._replace(resource='')}",
            f"tulle apply what is right, or tulle delete {label(item)}",
        )
        for item, violation in wrong
    ]
    problems += _empty_services(objects)
    problems += (
        Finding(
            f"{found.resource} is sound",
            "warning",
            f"{found.path}: {found.message}",
            f"tulle get {found.resource.kind.lower()}/{found.resource.object_name} -o yaml",
        )
        for found in findings(Mesh.of(resources))
    )
    if not problems:
        yield Finding(f"{len(objects)} resources are sound")
    yield from problems


def _empty_services(objects: list[Object]) -> Iterator[Finding]:
    workloads = [item for item in objects if item["kind"] == WORKLOAD.name]
    for service in objects:
        if service["kind"] != SERVICE.name or not service["spec"].get("selector"):
            continue
        behind = [workload for workload in workloads if selects(service, workload)]
        if any(is_ready(workload) for workload in behind):
            continue
        yield Finding(
            f"{label(service)} has a ready endpoint",
            "warning",
            "none of its workloads is ready" if behind else "no workload has the labels it selects",
            f"tulle describe {label(service)}",
        )


CHECKS: tuple[tuple[str, Check], ...] = (
    ("identity", identity),
    ("data plane", data_plane),
    ("resources", resources),
)


def _print(categories: list[tuple[str, list[Finding]]], *, short: bool) -> None:
    for title, found in categories:
        shown = [f for f in found if not short or f.result != "ok"]
        if shown:
            print(title)
        for finding in shown:
            print(f"  {symbol(finding.result)} {finding.description}")
            if finding.error:
                print(f"    {finding.error}")
            if finding.hint:
                print(f"    hint: {finding.hint}")
    results = [finding.result for _, found in categories for finding in found]
    warnings = counted(results.count("warning"), "warning")
    print(f"{results.count('ok')} passed, {warnings}, {results.count('failed')} failed")


def _as_json(categories: list[tuple[str, list[Finding]]], *, success: bool) -> dict[str, Any]:
    return {
        "success": success,
        "categories": [
            {"categoryName": title, "checks": [finding._asdict() for finding in found]}
            for title, found in categories
        ],
    }
