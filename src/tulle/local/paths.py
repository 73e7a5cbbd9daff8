"""Where things stand in the folder `.tulle` of a project."""

import os
from pathlib import Path
from typing import NamedTuple

from tulle.errors import StartError

FILE_NAME = "tulle.yaml"

SOCKET_PATH_BYTES_MAX = 107
"""What the kernel takes for the address of a Unix socket."""


class Home(NamedTuple):
    """The state of one mesh on this machine; the control plane's data directory too."""

    directory: Path

    @property
    def api_socket(self) -> Path:
        """Where the control plane's API listens."""
        return self.directory / "api.sock"

    @property
    def server_file(self) -> Path:
        """What the control plane writes once it is ready."""
        return self.directory / "server.json"

    @property
    def runner_socket(self) -> Path:
        """Where the runner takes requests from other terminals."""
        return self.directory / "up.sock"

    @property
    def runner_file(self) -> Path:
        """What the runner tells about itself: pid, project, port of the hub."""
        return self.directory / "up.json"

    @property
    def lock(self) -> Path:
        """Held by the runner as long as it lives."""
        return self.directory / "up.lock"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.directory / "logs"

    @property
    def roots(self) -> Path:
        """The certificates that sidecars trust the control plane by, before they join."""
        return self.directory / "sidecars" / "roots.pem"

    def sidecar(self, replica: str) -> Path:
        """Return the folder of the sidecar beside *replica*."""
        return self.directory / "sidecars" / replica

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            StartError: they cannot be made, or the path is too long for a socket.
        """
        if len(bytes(self.runner_socket)) > SOCKET_PATH_BYTES_MAX:
            raise StartError(
                f'"{self.directory}" is too long a path for a socket; '
                "set TULLE_HOME to a shorter one"
            )
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
            (self.directory / "sidecars").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StartError(
                f'"{self.directory}" cannot be made: {error.strerror}; '
                "set TULLE_HOME to a folder that can be written"
            ) from None


def home_of(start: Path) -> Path:
    """Return where the mesh of *start* keeps its state: $TULLE_HOME, or a folder `.tulle`."""
    if chosen := os.environ.get("TULLE_HOME"):
        return Path(chosen).absolute()
    folders = (start.absolute(), *start.absolute().parents)
    for folder in folders:
        if (folder / FILE_NAME).is_file() or (folder / ".tulle").is_dir():
            return folder / ".tulle"
    return folders[0] / ".tulle"
