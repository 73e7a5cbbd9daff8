"""Put the rules of `rules.py` in force in this network namespace, show them, and remove them.

A file in /run says who has set them up, so that whoever starts next finds what a crash has left.
"""

import contextlib
import dataclasses
import ipaddress
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tulle.errors import SettingsError, StartError, TulleError
from tulle.sidecar import rules
from tulle.sidecar.rules import Command, Interception

CAP_NET_ADMIN: Final = 12
COMMAND_SECONDS = 10.0
"""How long the kernel's tools may take; xtables waits for its lock."""
OUTBOUND_PORT, INBOUND_PORT, DNS_PORT = 15001, 15006, 15053
FILE = "intercept.json"
"""In the state directory: what a sidecar was asked to intercept."""
RESOLV_CONF = Path("/etc/resolv.conf")
NETWORK = Path("/proc/self/ns/net")
RUN = Path("/run/tulle")
FAMILIES = {4: "iptables", 6: "ip6tables"}


class Holder(NamedTuple):
    """The sidecar that rules are for, and the same of its successors."""

    pid: int
    started: str
    owner: str

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return _started(self.pid) == self.started


def main(state_dir: str, words: list[str]) -> None:
    """Lead traffic to the sidecar of *state_dir*: `up PID`; or no longer: `down EXIT-CODE`."""
    folder, (verb, number) = Path(state_dir), words
    try:
        if verb == "up":
            kept = json.loads((folder / FILE).read_text())
            addresses = json.loads((folder / "sidecar.json").read_text())["addresses"]
            set_up(interception(kept, _own_ports(addresses)), int(number), state_dir)
        elif (holder := _holder()) is not None:
            _end(folder, holder, has_failed=number != "0")
    except TulleError as error:
        sys.stdout.write(json.dumps({"event": "failed", "error": str(error)}) + "\n")
        sys.exit(1)
    sys.exit(int(number) if verb == "down" else 0)


def _end(folder: Path, holder: Holder, *, has_failed: bool) -> None:
    """Remove the rules, unless they are another's, or a crash left them and no start mended it."""
    own = os.getpid()
    if holder.pid != own and holder.is_running:
        return  # a successor's
    serving = _serving(folder)
    if serving != own and (started := _started(serving)):
        _write_holder(Holder(serving, started, holder.owner))  # it goes on: we never took its place
    elif holder.pid == own or (serving == own and not has_failed):
        remove()


def _serving(folder: Path) -> int:
    """Return the process that has served last with this state directory; 0 for none."""
    try:
        return int(json.loads((folder / "sidecar.json").read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return 0


def prepare(transparent: Mapping[str, Any], state_dir: Path) -> dict[str, Any]:
    """Keep in *state_dir* what is asked for; return the engine's settings for it.

    Raises:
        SettingsError: a privilege or a tool is missing, or another sidecar has its rules here.
    """
    check_privilege()
    tool = _tool()
    _check_free(None, str(state_dir))
    wanted = interception(transparent)
    (state_dir / FILE).write_text(json.dumps(transparent))
    _take_over_leftover(wanted, tool)
    loopback = ("127.0.0.1", "[::1]")[: len(_families())]
    everywhere = "[::]" if 6 in _families() else "0.0.0.0"
    return {
        "outbound": [f"{address}:{wanted.outbound}" for address in loopback],
        "inbound": wanted.inbound and f"{everywhere}:{wanted.inbound}",
        "dns": [f"{address}:{wanted.dns}" for address in loopback if wanted.dns],
        "resolv_conf": str(RESOLV_CONF),
        "tproxy": wanted.tproxy,
        "mesh_only": transparent.get("mesh_only", False),
        "mark": rules.MARK,
    }


def interception(transparent: Mapping[str, Any], own_ports: Iterable[int] = ()) -> Interception:
    """Return what *transparent* asks for: fields of Interception, `outbound_only`, `mesh_only`.

    Raises:
        SettingsError: a field is unknown, or no list of addresses.
    """
    fields = dict(transparent)
    fields.pop("mesh_only", None)
    inbound = None if fields.pop("outbound_only", False) else INBOUND_PORT
    dns = None if rules.DNS in fields.get("exclude_ports", ()) else DNS_PORT
    try:
        fields["exclude_cidrs"] = [
            str(ipaddress.ip_network(cidr)) for cidr in fields.get("exclude_cidrs", ())
        ]
        return Interception(
            outbound=OUTBOUND_PORT,
            inbound=inbound,
            dns=dns,
            resolvers=resolvers(),
            own_ports=tuple(own_ports),
            **fields,
        )
    except (TypeError, ValueError) as error:
        raise SettingsError(f"transparent: {error}") from None


def _own_ports(addresses: Mapping[str, Any]) -> list[int]:
    """Return the ports of the sidecar's listeners that other machines may call."""
    own = [one["listen"] for one in addresses["inbound"]]
    own += [addresses[name] for name in ("admin", "proxy") if addresses[name]]
    return [int(address.rpartition(":")[2]) for address in own]


def plan(wanted: Interception) -> str:
    """Return, as a script, what `set_up` would do.

    Raises:
        SettingsError: a tool is missing.
    """
    lines = [
        " ".join(command) for version in _families() for command in rules.routes(wanted, version)
    ]
    if _tool() == "nft":
        return "\n".join([f"nft -f - <<'END'\n{rules.nft_script(wanted)}END", *lines, ""])
    for version in _families():
        script = rules.restore_script(rules.iptables_tables(wanted, version), ())
        lines.insert(0, f"{FAMILIES[version]}-restore --noflush <<'END'\n{script}END")
    return "\n".join([*lines, ""])


def set_up(wanted: Interception, pid: int | None = None, owner: str = "") -> None:
    """Put *wanted* in force, in place of what was there.

    *pid* is the sidecar that it is for; None keeps it until somebody removes it. *owner* is the
    same for a sidecar and its successor.

    Raises:
        SettingsError: a privilege or a tool is missing, or another sidecar has its rules here.
        StartError: the kernel refuses; nothing is left behind, or what was there before.
    """
    check_privilege()
    tool = _tool()
    _check_free(pid, owner)
    before = _holder()
    _write_holder(None if pid is None else Holder(pid, _started(pid), owner))
    try:
        _put_in_force(wanted, tool)
    except StartError:
        if before is None:
            remove()
        else:
            _write_holder(before)
        raise


def _put_in_force(wanted: Interception, tool: str) -> None:
    if tool == "nft":
        _run(("nft", "-f", "-"), rules.nft_script(wanted))
    else:
        for version in _families():
            _restore(wanted, version)
    for version in _families():
        if not wanted.tproxy:
            for command in rules.tproxy_unroutes(version):
                _try(command)
        for command in rules.routes(wanted, version):
            _run(command)


def _take_over_leftover(wanted: Interception, tool: str) -> None:
    """Keep closed what a crash has left closed, and let this process ask the resolvers.

    The rules of a sidecar that does not run lead to nobody.
    """
    holder = _holder()
    if holder is not None and not holder.is_running:
        with contextlib.suppress(StartError):
            _put_in_force(dataclasses.replace(wanted, dns=None), tool)
        _remove_rules("iptables" if tool == "nft" else "nft")  # it may have had the other tool


def remove() -> None:
    """Remove all that `set_up` ever made here; nothing to remove is no error.

    Raises:
        SettingsError: a privilege is missing.
    """
    check_privilege()
    _remove_rules("nft")
    _remove_rules("iptables")
    for version in _families():
        for command in rules.unroutes(version):
            _try(command)
    _holder_file().unlink(missing_ok=True)


def _remove_rules(tool: str) -> None:
    """Remove what *tool* made, where it is here."""
    if tool == "nft":
        if shutil.which(tool):
            _try((tool, "delete", "table", "inet", rules.TABLE))
        return
    for version in _families():
        if shutil.which(tables := FAMILIES[version]):
            for table, hook in rules.HOOKS:
                for command in _unhook(tables, table, hook):
                    _try(command)


def remove_leftover() -> bool:
    """Remove the rules of a sidecar that has ended without doing so; tell whether there were any.

    For a start that intercepts nothing. One that does takes their place, without a moment in
    which the application can be reached past its policies.

    Without the privilege they stay: the number that a namespace is known by is used again, so a
    namespace that has gone may be meant.
    """
    holder = _holder()
    if holder is None or holder.is_running or not _is_privileged():
        return False
    remove()
    return True


def in_force() -> str:
    """Return the rules that are in force here; empty for none.

    Raises:
        SettingsError: a privilege or a tool is missing.
    """
    check_privilege()
    if _tool() == "nft":
        return _try(("nft", "list", "table", "inet", rules.TABLE))
    found = []
    for version, tool in FAMILIES.items():
        saved = _try((f"{tool}-save",)) if version in _families() else ""
        mark = rules.chain("", "").rstrip("-")
        found += [f"{tool} {line}" for line in saved.splitlines() if f"{mark}-" in line]
    return "".join(f"{line}\n" for line in found)


def check_privilege() -> None:
    """Raise SettingsError unless this process may change the network namespace."""
    if not _is_privileged():
        raise SettingsError(
            "to intercept traffic needs root or CAP_NET_ADMIN in this network namespace; "
            "without it, call services through HTTP_PROXY or a local port"
        )


def resolvers(resolv_conf: Path = RESOLV_CONF) -> tuple[str, ...]:
    """Return the resolvers that programs here ask; none without the file.

    One of a link alone (`fe80::1%eth0`) is not among them: an answer to what is sent to it has a
    way back by that link only.
    """
    try:
        lines = [line.split() for line in resolv_conf.read_text().splitlines()]
    except OSError:
        return ()
    found = [line[1] for line in lines if len(line) > 1 and line[0] == "nameserver"]
    return tuple(address for address in found if _is_resolver(address))


def _is_resolver(address: str) -> bool:
    try:
        one = ipaddress.ip_address(address)
    except ValueError:  # the C library passes over it as well
        return False
    return one.version == 4 or not (one.is_link_local or one.scope_id)


def uid_of(user: str) -> int:
    """Return the number of *user*, a name or a number.

    Raises:
        SettingsError: there is no user of this name.
    """
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise SettingsError(f'there is no user "{user}" on this machine') from None


def _is_privileged() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> CAP_NET_ADMIN & 1)


def _tool() -> str:
    if not shutil.which("ip"):
        raise SettingsError('the command "ip" is missing; install iproute2')
    if shutil.which("nft"):
        return "nft"
    if shutil.which("iptables-restore"):
        return "iptables"
    raise SettingsError("neither nft nor iptables is here; install nftables")


def _families() -> tuple[int, ...]:
    """Return the IP versions that this network namespace speaks."""
    addresses = Path("/proc/net/if_inet6")
    return (4, 6) if addresses.exists() and addresses.read_text() else (4,)


def _restore(wanted: Interception, version: int) -> None:
    """Put our chains in force; each table of the kernel is replaced in one step."""
    tool = FAMILIES[version]
    tables = rules.iptables_tables(wanted, version)
    hooked = []
    for table, hook in rules.HOOKS:
        name = rules.chain(table, hook)
        if hook not in tables.get(table, {}):
            for command in _unhook(tool, table, hook):
                _try(command)
        elif _succeeds((tool, "--wait", "-t", table, "-C", hook, "-j", name)):
            hooked.append(name)
    _run((f"{tool}-restore", "--noflush", "--wait"), rules.restore_script(tables, hooked))


def _unhook(tool: str, table: str, hook: str) -> list[Command]:
    at, name = (tool, "--wait", "-t", table), rules.chain(table, hook)
    return [(*at, "-D", hook, "-j", name), (*at, "-F", name), (*at, "-X", name)]


def _run(command: Command, script: str = "") -> None:
    ended = _execute(command, script)
    # A sidecar's successor asks for what is there already.
    if ended.returncode and "File exists" not in ended.stderr:
        said = ended.stderr.strip().partition("\n")[0]
        raise StartError(f'the kernel refuses to intercept traffic: "{" ".join(command)}": {said}')


def _try(command: Command) -> str:
    """Run *command*, which may have nothing to do; return its output, "" if it failed."""
    ended = _execute(command)
    return ended.stdout if ended.returncode == 0 else ""


def _succeeds(command: Command) -> bool:
    return _execute(command).returncode == 0


def _execute(command: Command, script: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            input=script,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise StartError(f'"{" ".join(command)}" takes longer than {COMMAND_SECONDS} s') from None


def _holder_file() -> Path:
    """Return the file of this network namespace, in a folder that a reboot empties."""
    folder = RUN if os.access(RUN.parent, os.W_OK) else Path(os.environ.get("XDG_RUNTIME_DIR", RUN))
    return folder / f"intercept-{NETWORK.stat().st_ino}"


def _holder() -> Holder | None:
    """Return whom the rules here are for; None for nobody in particular."""
    try:
        pid, started, owner = _holder_file().read_text().split(" ", 2)
    except (OSError, ValueError):
        return None
    return Holder(int(pid), started, owner)


def _check_free(pid: int | None, owner: str) -> None:
    """Raise SettingsError if the rules here are for another sidecar that runs."""
    holder = _holder()
    if holder is None or holder.pid == pid or (owner and holder.owner == owner):
        return
    if holder.is_running:
        raise SettingsError(
            f"process {holder.pid} intercepts this network namespace already; "
            "stop it, or give the other workload a network namespace of its own"
        )


def _write_holder(holder: Holder | None) -> None:
    file = _holder_file()
    try:
        file.parent.mkdir(mode=0o755, exist_ok=True)
        file.write_text("" if holder is None else " ".join(map(str, holder)))
    except OSError as error:
        raise SettingsError(
            f'"{file}" cannot be written: {error.strerror}; set XDG_RUNTIME_DIR to a folder of yours'
        ) from None


def _started(pid: int) -> str:
    """Return when a process started, in ticks; "" if there is none. A pid is used again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return fields[19]
