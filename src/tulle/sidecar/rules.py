"""What the kernel is told, so that traffic passes the sidecar of a network namespace.

Pure: an `Interception` in, text and command lines out; `intercept.py` runs them. All rules stand
in a table (nft) or in chains (iptables) of our own, so that they are replaced and removed whole.

outbound  what programs here send to other machines by TCP goes to a listener of the sidecar (REDIRECT;
          it asks the kernel for the original destination), questions to a resolver to another
inbound   what comes in from other machines, by REDIRECT, or by TPROXY: then the sidecar calls the
          application in the client's name, and the answers are led back to the sidecar
never     what the sidecar itself sends, known by the mark of its sockets; loopback
"""

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

TABLE = "tulle"
MARK = 0x74756C01
"""On all that the sidecar sends."""
LOOP_MARK = 0x74756C02
"""On what must be delivered here although its address is another machine's."""
ROUTE_TABLE = 7475
"""Number of the routing table that delivers it, and priority of the rule that leads there."""
VIRTUAL = ("240.240.0.0/16", "fd74:756c:6c65::/112")
"""Where the addresses of services are; a route lets programs connect without a default route."""
DNS, SSH = 53, 22
HOOKS = (
    ("nat", "OUTPUT"),
    ("nat", "PREROUTING"),
    ("mangle", "OUTPUT"),
    ("mangle", "PREROUTING"),
)
"""Tables of iptables and their built-in chains that may lead to chains of ours."""

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interception:
    """Which traffic goes to which port of the sidecar."""

    outbound: int
    """Takes what is sent to other machines."""
    inbound: int | None = None
    """Takes what comes in; None leaves that alone."""
    dns: int | None = None
    """Takes questions to `resolvers`; None leaves those alone."""
    resolvers: tuple[str, ...] = ()
    """Addresses of the resolvers that programs here ask."""
    tproxy: bool = False
    """Whether what comes in keeps the client's address up to the application."""
    own_ports: tuple[int, ...] = ()
    """Listeners of the sidecar that others call."""
    exclude_ports: tuple[int, ...] = ()
    """Of destinations that are called directly."""
    exclude_inbound_ports: tuple[int, ...] = (SSH,)
    """Of programs here that are called directly."""
    exclude_cidrs: tuple[str, ...] = ()
    """Destinations that are called directly, IPv4 or IPv6."""
    exclude_uids: tuple[int, ...] = ()
    """Users whose programs call directly."""

    def of_family(self, version: int) -> tuple[list[str], list[str]]:
        """Return resolvers and excluded CIDRs of IP *version*."""
        return (
            [one for one in self.resolvers if ipaddress.ip_address(one).version == version],
            [one for one in self.exclude_cidrs if ipaddress.ip_network(one).version == version],
        )


def nft_script(wanted: Interception) -> str:
    """Return what `nft -f -` replaces our table by, in one transaction."""
    chains = [("output", "nat", "output", "-100", list(_nft_output(wanted)))]
    if wanted.inbound is not None and wanted.tproxy:
        chains += [
            ("inbound", "filter", "prerouting", "-150", list(_nft_tproxy(wanted))),
            ("replies", "route", "output", "-150", list(_nft_replies())),
        ]
    elif wanted.inbound is not None:
        redirect = [*_nft_inbound(wanted), f"meta l4proto tcp redirect to :{wanted.inbound}"]
        chains.append(("inbound", "nat", "prerouting", "-100", redirect))
    lines = [f"table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    for name, kind, hook, priority, rules in chains:
        lines += [
            f"  chain {name} {{",
            f"    type {kind} hook {hook} priority {priority}; policy accept;",
            *(f"    {rule}" for rule in rules),
            "  }",
        ]
    return "\n".join([*lines, "}", ""])


def _nft_output(wanted: Interception) -> Iterator[str]:
    yield f"meta mark {MARK:#x} return"
    if wanted.exclude_uids:
        yield f"meta skuid {_set(wanted.exclude_uids)} return"
    families = (("ip", *wanted.of_family(4)), ("ip6", *wanted.of_family(6)))
    if wanted.dns is not None:
        for family, resolvers, _ in families:
            if resolvers:
                # TCP and UDP have their ports in the same place.
                asked = f"{family} daddr {_set(resolvers)} meta l4proto {{ tcp, udp }}"
                yield f"{asked} th dport {DNS} redirect to :{wanted.dns}"
    yield "fib daddr type local return"
    for family, _, cidrs in families:
        if cidrs:
            yield f"{family} daddr {_set(cidrs)} return"
    if wanted.exclude_ports:
        yield f"tcp dport {_set(wanted.exclude_ports)} return"
    yield f"meta l4proto tcp redirect to :{wanted.outbound}"
    # No service takes UDP, and no socket has this port: programs hear so at once.
    for family, addresses in zip(("ip", "ip6"), VIRTUAL, strict=True):
        yield f"{family} daddr {addresses} meta l4proto udp redirect to :{wanted.outbound}"


def _nft_inbound(wanted: Interception) -> Iterator[str]:
    """Yield what is left alone of what comes in."""
    yield 'iif "lo" return'
    yield "fib daddr type != local return"
    if ports := (*wanted.own_ports, *wanted.exclude_inbound_ports):
        yield f"tcp dport {_set(ports)} return"


def _nft_tproxy(wanted: Interception) -> Iterator[str]:
    # A connection of the sidecar to the application, perhaps in a client's name.
    yield f'iif "lo" meta mark {MARK:#x} ct mark set {MARK:#x}'
    yield from _nft_inbound(wanted)
    yield "ct direction reply return"
    yield f"meta l4proto tcp tproxy to :{wanted.inbound} meta mark set {LOOP_MARK:#x} accept"
    # Without a sidecar that listens the rule before matches nothing, and the application would
    # answer: no policy has spoken. What was open before the rules goes on.
    yield "tcp flags & (syn | ack) == syn drop"


def _nft_replies() -> Iterator[str]:
    yield f"meta mark {MARK:#x} return"
    yield f"ct mark {MARK:#x} meta mark set {LOOP_MARK:#x}"


def _set(values: Iterable[object]) -> str:
    return f"{{ {', '.join(map(str, sorted(set(values), key=str)))} }}"


def iptables_tables(wanted: Interception, version: int) -> dict[str, dict[str, list[str]]]:
    """Return the rules of our chains for IP *version*, by table and built-in chain."""
    tables = {"nat": {"OUTPUT": list(_iptables_output(wanted, version))}}
    if wanted.inbound is None:
        return tables
    mine = list(_iptables_inbound(wanted))
    if not wanted.tproxy:
        tables["nat"]["PREROUTING"] = [*mine, f"-p tcp -j REDIRECT --to-ports {wanted.inbound}"]
        return tables
    tables["mangle"] = {
        "PREROUTING": [
            f"-i lo -m mark --mark {MARK:#x} -j CONNMARK --set-mark {MARK:#x}",
            *mine,
            "-m conntrack --ctdir REPLY -j RETURN",
            f"-p tcp -j TPROXY --on-port {wanted.inbound} --tproxy-mark {LOOP_MARK:#x}",
        ],
        "OUTPUT": [
            f"-m mark --mark {MARK:#x} -j RETURN",
            f"-m connmark --mark {MARK:#x} -j MARK --set-mark {LOOP_MARK:#x}",
        ],
    }
    return tables


def _iptables_output(wanted: Interception, version: int) -> Iterator[str]:
    resolvers, cidrs = wanted.of_family(version)
    yield f"-m mark --mark {MARK:#x} -j RETURN"
    for uid in wanted.exclude_uids:
        yield f"-m owner --uid-owner {uid} -j RETURN"
    if wanted.dns is not None:
        for resolver in resolvers:
            for protocol in ("udp", "tcp"):
                asked = f"-d {resolver} -p {protocol} --dport {DNS}"
                yield f"{asked} -j REDIRECT --to-ports {wanted.dns}"
    yield "-m addrtype --dst-type LOCAL -j RETURN"
    for cidr in cidrs:
        yield f"-d {cidr} -j RETURN"
    for port in wanted.exclude_ports:
        yield f"-p tcp --dport {port} -j RETURN"
    yield f"-p tcp -j REDIRECT --to-ports {wanted.outbound}"
    virtual = VIRTUAL[0] if version == 4 else VIRTUAL[1]
    yield f"-d {virtual} -p udp -j REDIRECT --to-ports {wanted.outbound}"


def _iptables_inbound(wanted: Interception) -> Iterator[str]:
    yield "-i lo -j RETURN"
    yield "-m addrtype ! --dst-type LOCAL -j RETURN"
    for port in (*wanted.own_ports, *wanted.exclude_inbound_ports):
        yield f"-p tcp --dport {port} -j RETURN"


def chain(table: str, hook: str) -> str:
    """Return the name of our chain that the built-in chain *hook* of *table* leads to."""
    return f"{TABLE}-{table}-{hook}".upper()


def restore_script(tables: dict[str, dict[str, list[str]]], hooked: Iterable[str]) -> str:
    """Return what `iptables-restore --noflush` puts our chains in force by, table by table.

    *hooked* are those of our chains that are led to already.
    """
    lines = []
    for table, hooks in tables.items():
        lines.append(f"*{table}")
        for hook, rules in hooks.items():
            name = chain(table, hook)
            lines.append(f":{name} - [0:0]")
            lines += [f"-A {name} {rule}" for rule in rules]
            if name not in hooked:
                lines.append(f"-A {hook} -j {name}")
        lines.append("COMMIT")
    return "\n".join([*lines, ""])


def routes(wanted: Interception, version: int) -> list[Command]:
    """Return the `ip` commands that lead packets here; what is there already may be refused."""
    ip = ("ip", f"-{version}")
    virtual, loopback = (VIRTUAL[0], "127.0.0.1") if version == 4 else (VIRTUAL[1], "::1")
    commands: list[Command] = [(*ip, "route", "replace", virtual, "dev", "lo", "src", loopback)]
    if wanted.tproxy:
        table = ("table", str(ROUTE_TABLE))
        rule = ("fwmark", f"{LOOP_MARK:#x}", "lookup", str(ROUTE_TABLE))
        commands += [
            (*ip, "route", "replace", "local", "default", "dev", "lo", *table),
            (*ip, "rule", "add", *rule, "priority", str(ROUTE_TABLE)),
        ]
    return commands


def unroutes(version: int) -> list[Command]:
    """Return the `ip` commands that undo `routes`; each fails where there is nothing to undo."""
    virtual = VIRTUAL[0] if version == 4 else VIRTUAL[1]
    return [("ip", f"-{version}", "route", "del", virtual, "dev", "lo"), *tproxy_unroutes(version)]


def tproxy_unroutes(version: int) -> list[Command]:
    """Return those of them that are about TPROXY; the others are replaced without a gap."""
    ip = ("ip", f"-{version}")
    return [
        (*ip, "route", "flush", "table", str(ROUTE_TABLE)),
        (*ip, "rule", "del", "priority", str(ROUTE_TABLE)),
    ]
