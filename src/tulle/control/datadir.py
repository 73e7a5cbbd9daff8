"""The data directory: private, locked by one server, with the socket and server.json in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from tulle.errors import SettingsError, StartError

LOCK_NAME = "server.lock"
SERVER_FILE = "server.json"


class DataDirInUse(StartError):
    """Another server runs on the same data directory."""


class AddressInUse(StartError):
    """Another program serves the address or socket already."""


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Make *data_dir* if need be, private to its owner, and hold its lock.

    Raises:
        DataDirInUse: another server holds the lock.
        SettingsError: the path is no directory, or belongs to another user.
    """
    _make_private(data_dir)
    lock = os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(lock, 32).decode().strip()
            raise DataDirInUse(f"{data_dir} is in use by another server, pid {holder}") from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def _make_private(data_dir: Path) -> None:
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise SettingsError(f"{data_dir} is not a directory") from error
    except OSError as error:
        raise SettingsError(f"{data_dir} cannot be made: {error.strerror}") from error
    found = data_dir.stat()
    if found.st_uid != os.geteuid():
        raise SettingsError(f"{data_dir} belongs to another user")
    if stat.S_IMODE(found.st_mode) != 0o700:
        data_dir.chmod(0o700)


def bind_unix(path: Path) -> socket.socket:
    """Bind a Unix socket that only its owner can use; a stale one at *path* is replaced.

    The address goes through the directory's descriptor: a path may be longer than
    the 107 bytes that a socket address holds.

    Raises:
        AddressInUse: someone answers at *path*.
        SettingsError: *path* is something else, or its directory is missing.
    """
    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SettingsError(f"{path.parent}: {(error.strerror or '').lower()}") from error
    address = f"/proc/self/fd/{directory}/{path.name}"
    try:
        _remove_stale(path, address)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            listener.bind(address)
        except OSError as error:
            listener.close()
            raise SettingsError(f"{path}: {(error.strerror or '').lower()}") from error
        finally:
            os.umask(mask)
        listener.setblocking(False)
        return listener
    finally:
        os.close(directory)


def _remove_stale(path: Path, address: str) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SettingsError(f"{path} is there and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise AddressInUse(f"{path} is served by another program")


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`, where an IPv6 host stands in brackets.

    Raises:
        SettingsError: *address* is not of that form.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise SettingsError(f"'{address}' is not an address; HOST:PORT is")
    return host.removeprefix("[").removesuffix("]"), int(port)


def bind_tcp(address: str) -> socket.socket:
    """Bind a TCP socket to *address*, a `HOST:PORT`.

    Raises:
        AddressInUse: another program has the port.
        SettingsError: *address* cannot be bound at all.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        kind = AddressInUse if error.errno == errno.EADDRINUSE else SettingsError
        raise kind(f"{address}: {(error.strerror or str(error)).lower()}") from error
    listener.setblocking(False)
    return listener


def write_server_file(data_dir: Path, facts: dict[str, object]) -> None:
    """Write server.json at once and whole: others wait for it and read it."""
    path = data_dir / SERVER_FILE
    fresh = path.with_suffix(".new")
    with open(fresh, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        json.dump(facts, file)
    fresh.replace(path)


def remove_server_file(data_dir: Path) -> None:
    """Take server.json away: nobody serves here any more."""
    (data_dir / SERVER_FILE).unlink(missing_ok=True)
