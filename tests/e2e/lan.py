"""Network namespaces of a test's own, as machines on a cable, where there is the privilege."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

TOOLS = ("ip", "nft", "iptables", "ip6tables")
PROBES = (
    "nft 'add table inet a; add chain inet a b { type nat hook output priority 0; }'",
    "iptables -t nat -A OUTPUT -p tcp -j REDIRECT",
    "iptables -t mangle -A PREROUTING -p tcp -j TPROXY --on-port 1",
)
"""What a kernel without the modules refuses."""
ETC = Path("/etc/netns")
"""Where `ip netns exec` finds files that a namespace sees in /etc."""
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Host:
    """A machine of the cable."""

    namespace: str
    ipv4: str
    ipv6: str

    def run(self, *command: str) -> str:
        """Run a command, which must succeed; return its output."""
        return inside(self.namespace, *command)

    def tries(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command, which may fail."""
        return subprocess.run(on(self, command), capture_output=True, text=True, check=False)


def on(host: Host | None, command: Sequence[str]) -> list[str]:
    """Return the command that runs *command* on *host*, or here."""
    return [*(("ip", "netns", "exec", host.namespace) if host else ()), *command]


def path_without_nft(folder: Path) -> str:
    """Return a PATH with nothing in it but iptables and what else interception needs."""
    for tool in ("ip", "iptables", "ip6tables"):
        for program in (tool, f"{tool}-save", f"{tool}-restore"):
            found = shutil.which(program)
            if found and not (folder / program).is_symlink():
                (folder / program).symlink_to(found)
    return str(folder)


def missing() -> str:
    """Return why these tests cannot run here; empty if they can."""
    if gone := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"{', '.join(gone)} missing"
    name = f"tulle-{os.getpid()}-probe"
    probes: list[tuple[str, ...]] = [("ip", "netns", "add", name)]
    probes += [("ip", "netns", "exec", name, "sh", "-c", probe) for probe in PROBES]
    try:
        for probe in probes:
            made = subprocess.run(probe, capture_output=True, text=True, check=False)
            if made.returncode:
                return f"no {' '.join(probe)}: {made.stderr.strip()}"
    finally:
        subprocess.run(("ip", "netns", "del", name), capture_output=True, check=False)
    return ""


@contextmanager
def network_namespace() -> Iterator[str]:
    """Make a network namespace with nothing but loopback; remove it at the end."""
    name = f"tulle-{os.getpid()}-{next(_numbers)}"
    subprocess.run(("ip", "netns", "add", name), check=True)
    try:
        inside(name, "ip", "link", "set", "lo", "up")
        yield name
    finally:
        number = Path("/run/netns", name).stat().st_ino
        Path("/run/tulle", f"intercept-{number}").unlink(missing_ok=True)
        subprocess.run(("ip", "netns", "del", name), check=True)
        shutil.rmtree(ETC / name, ignore_errors=True)


@contextmanager
def cable(count: int, resolver: int) -> Iterator[list[Host]]:
    """Make *count* machines that reach each other and ask the one number *resolver*."""
    with ExitStack() as stack:
        names = [stack.enter_context(network_namespace()) for _ in range(count)]
        inside(names[0], "ip", "link", "add", "eth0", "type", "bridge")
        hosts = []
        for number, name in enumerate(names):
            if number:
                port = ("ip", "link", "add", f"port{number}", "type", "veth", "peer", "name")
                inside(names[0], *port, "eth0", "netns", name)
                inside(names[0], "ip", "link", "set", f"port{number}", "master", "eth0", "up")
            host = Host(name, f"10.77.0.{number + 1}", f"fd77::{number + 1}")
            host.run("ip", "address", "add", f"{host.ipv4}/24", "dev", "eth0")
            host.run("ip", "address", "add", f"{host.ipv6}/64", "dev", "eth0", "nodad")
            host.run("ip", "link", "set", "eth0", "up")
            (ETC / name).mkdir(parents=True)
            (ETC / name / "resolv.conf").write_text(
                f"nameserver 10.77.0.{resolver + 1}\nsearch corp.example\n"
            )
            hosts.append(host)
        yield hosts


def inside(namespace: str, *command: str) -> str:
    """Run a command in *namespace*, which must succeed; return its output."""
    ended = subprocess.run(
        ("ip", "netns", "exec", namespace, *command), capture_output=True, text=True, check=False
    )
    if ended.returncode:
        pytest.fail(f"{' '.join(command)}: {ended.stderr}")
    return ended.stdout
