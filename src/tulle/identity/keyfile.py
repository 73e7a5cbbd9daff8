"""Files that hold private keys: 0600 from the moment they exist, and refused when wider."""

import os
import secrets
import stat
from pathlib import Path

from tulle.errors import IdentityError

KEY_FILE_BYTES_MAX = 64 * 1024
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def make_private_directory(path: Path) -> None:
    """Make *path*, readable by its owner only, unless it is there.

    Raises:
        IdentityError: it is there, and others may write in it.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid() or found.st_mode & _OTHERS_WRITE:
        raise IdentityError(
            f"{path}: others may write here; hint: chown {os.geteuid()} {path}; chmod 0700 {path}"
        )


def write_private(path: Path, text: str, *, replace: bool) -> None:
    """Write *text* to *path* as a whole or not at all, and make it last.

    Raises:
        FileExistsError: *path* is there and *replace* is false.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(
        draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        else:
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    _sync_directory(path.parent)


def read_private(path: Path) -> str:
    """Return the text of *path*.

    Raises:
        FileNotFoundError: there is no such file.
        IdentityError: it is not a plain file of ours that only we may read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as cause:
        raise IdentityError(f"{path}: cannot be opened: {cause.strerror}") from cause
    with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise IdentityError(f"{path}: is not a plain file")
        if found.st_uid != os.geteuid():
            raise IdentityError(f"{path}: belongs to user {found.st_uid}, not to {os.geteuid()}")
        if found.st_mode & _OTHERS:
            raise IdentityError(
                f"{path}: mode {stat.S_IMODE(found.st_mode):04o} lets others read the key; "
                f"hint: chmod 0600 {path}"
            )
        if found.st_size > KEY_FILE_BYTES_MAX:
            raise IdentityError(f"{path}: is longer than {KEY_FILE_BYTES_MAX} bytes")
        return file.read()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
