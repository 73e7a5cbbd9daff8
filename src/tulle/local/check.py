"""Judge a running shop: its traffic from outside, its edges by the mesh's own telemetry."""

import asyncio
import json
import math
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tulle.errors import TulleError
from tulle.local.plane import Plane
from tulle.local.project import providers
from tulle.local.supervisor import Supervisor
from tulle.local.unit import Unit

KILLED = "catalog-v1-2"
SPLIT = {"v1": 90, "v2": 10}
"""What the shop's resources say of the catalogue."""

P_MIN = 0.001
"""A right split fails the test once in a thousand runs."""

REPORT_SECONDS = 5.0
"""Within which the last requests must be in the telemetry; sidecars report each second."""

DENIED = ("recommendations", "payments")
"""What a policy denies; the traffic of the check does not try it."""

MIB = 1024 * 1024

Edge = dict[str, Any]


@dataclass(slots=True)
class Checked:
    """What was found. Everything holds if `failures` is empty."""

    failures: list[str] = field(default_factory=list)
    seconds_to_first_request: float | None = None
    traffic: dict[str, Any] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    split: dict[str, Any] = field(default_factory=dict)
    rss_mib: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what `tulle demo --check` prints."""
        pages, failed = self.traffic.get("pages", 0), self.traffic.get("failed", 0)
        return {
            "ok": not self.failures,
            "failures": self.failures,
            "seconds_to_first_request": self.seconds_to_first_request,
            "requests": sum(edge["requests"] for edge in self.edges),
            "pages": pages,
            "pages_failed": failed,
            "success_rate": (pages - failed) / pages if pages else None,
            "killed": KILLED,
            "split": self.split,
            "edges": self.edges,
            "rss_mib": self.rss_mib,
        }


async def measure(supervisor: Supervisor, seconds: float, began: float) -> Checked:
    """Let the traffic run for *seconds*, kill a replica in the middle, and judge.

    *began* is when the start was asked for, in seconds since the epoch.
    """
    checked = Checked()
    units = {unit.name: unit for unit in supervisor.units}
    await asyncio.sleep(seconds / 2)
    checked.rss_mib = memory(supervisor)
    kill(units[KILLED])
    await asyncio.sleep(seconds / 2)
    await units["traffic-1"].stop_app()
    checked.traffic = json.loads(units["traffic-1"].last_line)
    if (first := checked.traffic["first_page"]) is not None:
        checked.seconds_to_first_request = round(first - began, 3)
    plane = Plane(supervisor.settings.home.api_socket)
    checked.edges = await settled_edges(plane, checked.traffic["pages"])
    judge_traffic(checked)
    judge_edges(checked, supervisor)
    judge_split(checked)
    return checked


def kill(unit: Unit) -> None:
    """End program and sidecar of *unit* with SIGKILL, as a crash of its machine would."""
    for child in (unit.sidecar.child, unit.child):
        if child is not None:
            os.kill(child.pid, signal.SIGKILL)


async def settled_edges(plane: Plane, pages: int) -> list[Edge]:
    """Return all edges once the front's count has reached *pages*, or what there is by then."""
    deadline = asyncio.get_running_loop().time() + REPORT_SECONDS
    while True:
        answer = await asyncio.to_thread(plane.call, "GET", "/tulle/v1/edges?namespace=shop")
        edges: list[Edge] = answer["edges"]
        seen = sum(edge["requests"] for edge in edges if edge["service"] == "shop/web")
        if seen >= pages or asyncio.get_running_loop().time() > deadline:
            return edges
        await asyncio.sleep(0.1)


def judge_traffic(checked: Checked) -> None:
    """Every page came back whole."""
    traffic = checked.traffic
    if not traffic["pages"]:
        checked.failures.append("no page was asked for")
    if traffic["failed"]:
        lost, pages = traffic["failed"], traffic["pages"]
        checked.failures.append(f"{lost} of {pages} pages failed: {traffic['failures']}")


def judge_edges(checked: Checked, supervisor: Supervisor) -> None:
    """Each expected edge is there, and each edge is mTLS between the right identities."""
    project = supervisor.settings.project
    domain = project.manifest.mesh.trust_domain
    identities = {
        f"{unit.replica.namespace}/{unit.name}": (
            f"spiffe://{domain}/ns/{unit.replica.namespace}/sa/{unit.replica.service_account}"
        )
        for unit in supervisor.units
    }
    seen = {(app_of(edge["source"]), edge["service"]) for edge in checked.edges}
    for name, app in project.manifest.apps.items():
        for dependency in app.depends_on:
            target = dependency.target(project.namespace(name))
            if not providers(project, target) or (name, target.service) == DENIED:
                continue
            if (name, f"{target.namespace}/{target.service}") not in seen:
                checked.failures.append(f"no traffic was seen from {name} to {target.service}")
    for edge in checked.edges:
        label = f"{edge['source']} → {edge['destination'] or edge['service']}"
        if not edge["mtls"]:
            checked.failures.append(f"{label} is not mTLS")
        for end in ("source", "destination"):
            wanted, told = identities.get(edge[end]), edge[f"{end}_identity"]
            if told != wanted:
                checked.failures.append(f"{label}: {end} is {told}, not {wanted}")


def judge_split(checked: Checked) -> None:
    """The catalogue's calls fall on its versions as the route says."""
    counts = dict.fromkeys(SPLIT, 0)
    for edge in checked.edges:
        if edge["service"] == "shop/catalog" and edge["destination"]:
            version = edge["destination"].rpartition("/")[2].split("-")[1]
            counts[version] += edge["requests"]
    total = sum(counts.values())
    expected = {version: total * share / 100 for version, share in SPLIT.items()}
    chi_square, p = (0.0, 0.0) if not total else chi_square_of_two(list(counts.values()), expected)
    checked.split = {
        "counts": counts,
        "expected_percent": SPLIT,
        "chi_square": round(chi_square, 4),
        "p": round(p, 6),
    }
    if p < P_MIN:
        checked.failures.append(f"the catalogue's split is {counts}, not 90 to 10 (p = {p:.2g})")


def chi_square_of_two(counts: list[int], expected: dict[str, float]) -> tuple[float, float]:
    """Return chi-square with one degree of freedom, and its p-value."""
    chi_square = sum(
        (count - wanted) ** 2 / wanted
        for count, wanted in zip(counts, expected.values(), strict=True)
    )
    return chi_square, math.erfc(math.sqrt(chi_square / 2))


def memory(supervisor: Supervisor) -> dict[str, Any]:
    """Return the resident memory of the control plane and of each sidecar, in MiB."""
    control = supervisor.control.status().pid
    sidecars = {
        unit.name: resident_mib(unit.sidecar.child.pid)
        for unit in supervisor.units
        if unit.sidecar.child is not None
    }
    return {"control_plane": resident_mib(control) if control else None, "sidecars": sidecars}


def resident_mib(pid: int) -> float:
    """Return the resident memory of process *pid*.

    Raises:
        TulleError: it has ended.
    """
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except FileNotFoundError:
        raise TulleError(f"process {pid} has ended") from None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / MIB, 1)


def app_of(workload: str) -> str:
    """Return `cart` for `shop/cart-1`."""
    return workload.rpartition("/")[2].rpartition("-")[0]
