"""Put the rules of `rules.py` in force in this network namespace, show them, and remove them.

A file in /run says who has set them up, so that whoever starts next finds what a crash has left.
"""

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from tulle.errors import SettingsError, StartError
from tulle.sidecar import rules
from tulle.sidecar.rules import Command, Interception

CAP_NET_ADMIN: Final = 12
COMMAND_SECONDS = 10.0
"""How long the kernel's tools may take; xtables waits for its lock."""
RESOLV_CONF = Path("/etc/resolv.conf")
NETWORK = Path("/proc/self/ns/net")
RUN = Path("/run/tulle")
FAMILIES = {4: "iptables", 6: "ip6tables"}


class Holder(NamedTuple):
    """The sidecar that rules are for."""

    pid: int
    started: str

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return _started(self.pid) == self.started


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


def set_up(wanted: Interception, pid: int | None = None) -> None:
    """Put *wanted* in force, in place of what was there.

    *pid* is the sidecar that it is for; None keeps it until somebody removes it.

    Raises:
        SettingsError: a privilege or a tool is missing, or another sidecar has its rules here.
        StartError: the kernel refuses; nothing is left behind.
    """
    check_privilege()
    tool = _tool()
    holder = _holder()
    if holder is not None and holder.pid != pid and holder.is_running:
        raise SettingsError(
            f"process {holder.pid} intercepts this network namespace already; "
            "stop it, or give the other workload a network namespace of its own"
        )
    _write_holder(pid)
    try:
        if tool == "nft":
            _run(("nft", "-f", "-"), rules.nft_script(wanted))
        else:
            for version in _families():
                _restore(wanted, version)
        for version in _families():
            for command in rules.unroutes(version):
                _try(command)
            for command in rules.routes(wanted, version):
                _run(command)
    except StartError:
        remove()
        raise


def remove() -> None:
    """Remove all that `set_up` ever made here; nothing to remove is no error.

    Raises:
        SettingsError: a privilege is missing.
    """
    check_privilege()
    if shutil.which("nft"):
        _try(("nft", "delete", "table", "inet", rules.TABLE))
    for version in _families():
        if shutil.which(tool := FAMILIES[version]):
            for table, hook in rules.HOOKS:
                for command in _unhook(tool, table, hook):
                    _try(command)
        for command in rules.unroutes(version):
            _try(command)
    _holder_file().unlink(missing_ok=True)


def remove_leftover() -> bool:
    """Remove the rules of a sidecar that has ended without doing so; tell whether there were any.

    Raises:
        SettingsError: there are some, and a privilege to remove them is missing.
    """
    holder = _holder()
    if holder is None or holder.is_running:
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
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    if not int(effective.split()[1], 16) >> CAP_NET_ADMIN & 1:
        raise SettingsError(
            "to intercept traffic needs root or CAP_NET_ADMIN in this network namespace; "
            "without it, call services through HTTP_PROXY or a local port"
        )


def resolvers(resolv_conf: Path = RESOLV_CONF) -> tuple[str, ...]:
    """Return the resolvers that programs here ask; none without the file."""
    try:
        lines = [line.split() for line in resolv_conf.read_text().splitlines()]
    except OSError:
        return ()
    found = [line[1] for line in lines if len(line) > 1 and line[0] == "nameserver"]
    return tuple(address.partition("%")[0] for address in found)


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
    ended = subprocess.run(
        command, input=script, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS
    )
    if ended.returncode:
        said = ended.stderr.strip().partition("\n")[0]
        raise StartError(f'the kernel refuses to intercept traffic: "{" ".join(command)}": {said}')


def _try(command: Command) -> str:
    """Run *command*, which may have nothing to do; return its output, "" if it failed."""
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS
    )
    return ended.stdout if ended.returncode == 0 else ""


def _succeeds(command: Command) -> bool:
    quiet = subprocess.DEVNULL
    return subprocess.call(command, stdout=quiet, stderr=quiet, timeout=COMMAND_SECONDS) == 0


def _holder_file() -> Path:
    """Return the file of this network namespace, in a folder that a reboot empties."""
    folder = RUN if os.access(RUN.parent, os.W_OK) else Path(os.environ.get("XDG_RUNTIME_DIR", RUN))
    return folder / f"intercept-{NETWORK.stat().st_ino}"


def _holder() -> Holder | None:
    """Return whom the rules here are for; None for nobody in particular."""
    try:
        pid, started = _holder_file().read_text().split()
    except (OSError, ValueError):
        return None
    return Holder(int(pid), started)


def _write_holder(pid: int | None) -> None:
    file = _holder_file()
    try:
        file.parent.mkdir(mode=0o755, exist_ok=True)
        file.write_text("" if pid is None else f"{pid} {_started(pid)}")
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
