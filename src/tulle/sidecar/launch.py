"""From a settings file to a running host: ports kept from the last run, then a lean interpreter.

A second start with the same state directory is an upgrade: the engine takes the listening sockets
over from the process that runs, which drains and ends; one that intercepts is succeeded by one that
does.

The host must not hold what its preparation needed, so the preparation replaces its own process:
`python -I -S`, no site packages, one folder on the path beside the standard library.
"""

import json
import os
import resource
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from tulle.errors import SettingsError
from tulle.sidecar import intercept

ENGINE_FILE = "engine.json"
SIDECAR_FILE = "sidecar.json"
TAKEOVER_FILE = "takeover.sock"
"""Where a running engine hands its sockets to a successor."""
ENVIRONMENT = {"MIMALLOC_ALLOW_THP": "0", "LC_ALL": "C"}
"""A huge page is resident whole, and an idle sidecar would need three: 9 of 23 MiB. Text is UTF-8
in the C locale, too, which needs no table of characters: 0.2 MiB."""
TUNABLES = "glibc.cpu.x86_rep_movsb_threshold=1073741824"
"""Before glibc 2.39 a long copy is one `rep movsb`, which AMD's processors of Zen 3 and 4 do 20
times slower where the copy lies a few bytes further into its page than the source (glibc bug
30994), as a TLS record with its head often does. Other processors lose nothing by vector copies."""
BOOT = "import sys; sys.path.append({root!r}); from {module} import main; main({arguments})"
ROOT = str(Path(__file__).parents[2])


def host_command(settings: Path, token_fd: int | None) -> list[str]:
    """Return the command line of a sidecar process for *settings*."""
    return [sys.executable, "-I", "-S", "-c", _launcher(settings, token_fd)]


def _launcher(settings: Path, token_fd: int | None) -> str:
    arguments = f"{str(settings.absolute())!r}, {token_fd}"
    return BOOT.format(root=ROOT, module="tulle.sidecar.launch", arguments=arguments)


def exec_host(
    settings: Path,
    token_fd: int | None = None,
    token_file: Path | None = None,
    transparent: Mapping[str, Any] | None = None,
) -> NoReturn:
    """Replace this process by the host of *settings*.

    The token comes from the inherited descriptor *token_fd* or from *token_file*; without either
    the sidecar starts with the identity it has kept. Where a sidecar of the same state directory
    runs already, it takes that one's place. *transparent* takes the place of what the settings
    say of interception, fields as `intercept.wanted` reads them.

    Raises:
        SettingsError: a file cannot be read, or the settings lack what every sidecar needs.
    """
    try:
        if token_file is not None:
            token_fd = os.open(token_file, os.O_RDONLY)
        given = json.loads(settings.read_bytes())
        state_dir = Path(given["state_dir"])
        roots = given.pop("roots_pem_path")
        written = given.pop("transparent", None)
        transparent = written if transparent is None else transparent
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        succeeds = runs_already(state_dir)
        engine_file = state_dir / ENGINE_FILE
        if succeeds and transparent is None and _intercepts(engine_file):
            # Asked for on the command line then; without it, what is open would break.
            transparent = json.loads((state_dir / intercept.FILE).read_bytes())
        _allow_many_connections()
        for change in keep_ports(given, state_dir, succeeds=succeeds):
            sys.stdout.write(f"{json.dumps(change)}\n")
        command: tuple[str, ...] = ()
        if transparent is None:
            intercept.remove_leftover()
        else:
            given["intercept"] = intercept.prepare(transparent, state_dir)
            command = intercept_command(state_dir)
        engine_file.write_text(json.dumps(given))
    except (OSError, ValueError) as error:
        raise SettingsError(f'"{settings}": {error}') from None
    except (KeyError, TypeError) as error:
        raise SettingsError(
            f'"{settings}": {error} is missing; a sidecar needs state_dir and roots_pem_path'
        ) from None
    sys.stdout.flush()
    token = -1 if token_fd is None else token_fd
    if token >= 0:
        os.set_inheritable(token, True)
    _exec(
        "tulle.sidecar.host",
        f"{str(engine_file)!r}, {str(state_dir)!r}, {roots or ''!r}, {token}, {command}, "
        f"{_launcher(settings, None)!r}, succeeds={succeeds}",
    )


def own_ports(settings: Mapping[str, Any]) -> list[int]:
    """Return the ports that *settings* name for what others call; 0 for each left to the system."""
    addresses = [settings.get("admin_listen"), settings.get("proxy_listen")]
    addresses += [one["listen"] for one in settings["inbound"]]
    return [int(address.rpartition(":")[2]) for address in addresses if address]


def exec_shared(workers: int) -> NoReturn:
    """Replace this process by the shared host (`shared.py`), *workers* threads for traffic."""
    _exec("tulle.sidecar.shared", str(workers))


def _exec(module: str, arguments: str) -> NoReturn:
    """Replace this process by a lean interpreter that calls `main` of *module*."""
    command = _lean(module, arguments)
    os.execve(sys.executable, command, environment())  # noqa: S606


def _lean(module: str, arguments: str) -> list[str]:
    """Return the command line that calls `main` of *module* and holds nothing else."""
    boot = BOOT.format(root=ROOT, module=module, arguments=arguments)
    return [sys.executable, "-I", "-S", "-c", boot]


def environment() -> dict[str, str]:
    """Return what a process with an engine is started with: light, and quick at copies."""
    # Of two values the later one holds: the user's.
    tunables = ":".join(filter(None, (TUNABLES, os.environ.get("GLIBC_TUNABLES"))))
    return {**os.environ, **ENVIRONMENT, "GLIBC_TUNABLES": tunables}


def intercept_command(state_dir: Path) -> tuple[str, ...]:
    """Return the command that leads traffic to the sidecar of *state_dir*, or no longer."""
    return tuple(_lean("tulle.sidecar.intercept", f"{str(state_dir)!r}, sys.argv[1:]"))


def main(settings: str, token_fd: int | None) -> None:
    """Do what `exec_host` does; print what is wrong as an event."""
    try:
        exec_host(Path(settings), token_fd)
    except SettingsError as error:
        sys.stdout.write(f"{json.dumps({'event': 'failed', 'error': str(error)})}\n")
        sys.exit(1)


def _intercepts(engine_file: Path) -> bool:
    """Tell whether the sidecar that was started with this file intercepts traffic."""
    return "intercept" in json.loads(engine_file.read_bytes())


def _allow_many_connections() -> None:
    """Raise the limit of open files as far as the system lets us; the host inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def runs_already(state_dir: Path) -> bool:
    """Tell whether a sidecar of this state directory runs, and can be succeeded."""
    # By way of the open directory: its path may be longer than an address of a Unix socket.
    directory = os.open(state_dir, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(f"/proc/self/fd/{directory}/{TAKEOVER_FILE}")
    except OSError:
        return False
    finally:
        os.close(directory)
    return True


def keep_ports(
    settings: dict[str, Any], state_dir: Path, *, succeeds: bool = False
) -> list[dict[str, Any]]:
    """Put the ports of the last run where *settings* leave the choice to the system.

    *succeeds*: the last run still has them, and hands them over. Return an event for each that
    somebody else holds by now.
    """
    try:
        last = json.loads((state_dir / SIDECAR_FILE).read_bytes())["addresses"]
    except (OSError, ValueError, KeyError):  # a first run, or one that was cut off
        return []
    changes = []
    listeners = [
        (settings, "proxy_listen", last["proxy"], "proxy"),
        (settings, "admin_listen", last["admin"], "admin"),
    ]
    for one in settings["inbound"]:
        held = [old["listen"] for old in last["inbound"] if old["port"] == one["port"]]
        listeners += [(one, "listen", address, f"inbound {one['port']}") for address in held]
    for one in settings["outbound"]:
        key = (one["service"], one["port"])
        held = [old["listen"] for old in last["outbound"] if (old["service"], old["port"]) == key]
        listeners += [(one, "listen", address, f"outbound {one['service']}") for address in held]
    for holder, field, address, listener in listeners:
        wanted = holder[field]
        if address is None or wanted is None or not wanted.endswith(":0"):
            continue
        if succeeds or _is_free(address):
            holder[field] = address
        else:
            changes.append({"event": "port-changed", "listener": listener, "was": address})
    return changes


def _is_free(address: str) -> bool:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError:
            return False
    return True
