"""`tulle run`: one program in the mesh, in the terminal it was started from."""

import asyncio
import json
import shutil
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from tulle.errors import InvalidResources
from tulle.local.first import shell_code, stand_behind_the_first
from tulle.local.paths import Home
from tulle.local.plane import Plane
from tulle.local.project import Manifest, Project
from tulle.local.supervisor import RunSettings, Supervisor
from tulle.resources.text import Document
from tulle.resources.violations import located

NAME_HEX = 4
"""Of the replica's name, so that several runs of one service do not meet."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The program, and its place in the mesh."""

    command: tuple[str, ...]
    service: str | None
    """None for a program that only calls."""
    port: int | None
    """Where it listens; None lets it read $PORT."""
    home: Path
    namespace: str = "default"
    protocol: str = "http"
    labels: Mapping[str, str] = field(default_factory=dict)
    depends_on: tuple[str, ...] = ()
    service_port: int = 80
    probe_path: str | None = None
    transparent: bool = False
    """Whether the sidecar intercepts what is sent from this network namespace."""
    color: bool = False


def run(options: RunOptions) -> int:
    """Run the program until it ends; return its exit code, 128 and more for a signal.

    Raises:
        StartError: the program or the control plane cannot be started.
        InvalidResources: an option makes no right app.
    """
    stand_behind_the_first()
    home = Home(options.home.absolute())
    home.prepare()
    plane = Plane(home.api_socket)
    hub = json.loads(home.server_file.read_bytes())["hub"] if plane.is_ready() else None
    suffix = uuid.uuid4().hex[:NAME_HEX]
    settings = RunSettings(
        project=_project(options),
        home=home,
        out=sys.stderr,
        color=options.color,
        states=False,
        single=True,
        joined_hub=hub,
        suffix=suffix,
        transparent=options.transparent,
    )
    try:
        return asyncio.run(_run(settings))
    finally:
        name = f"{options.service or 'run'}-{suffix}"
        shutil.rmtree(home.sidecar(name), ignore_errors=True)
        for log in home.logs.glob(f"{name}.*"):
            log.unlink()


async def _run(settings: RunSettings) -> int:
    supervisor = Supervisor(settings)
    await supervisor.serve()
    unit = supervisor.units[0]
    if unit.failure is not None:
        raise unit.failure
    code = unit.exit_code
    if code is None and unit.child is not None:  # stopped by Ctrl-C, or a signal to the runner
        code = await unit.child.wait()
    return 130 if code is None else shell_code(code)


def _project(options: RunOptions) -> Project:
    """Return a project of one app, as a tulle.yaml could have written it."""
    app = {
        "command": list(options.command),
        "service": options.service,
        "namespace": options.namespace,
        "port": options.port,
        "servicePort": options.service_port,
        "protocol": options.protocol,
        "labels": dict(options.labels),
        "dependsOn": [{"service": name, "condition": "started"} for name in options.depends_on],
        "readiness": {"http": options.probe_path},
        "restart": "never",
    }
    value = {"apps": {options.service or "run": app}}
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        violations = [violation for _, violation in located(Manifest, error, "")]
        raise InvalidResources(violations) from None
    path = Path.cwd() / "tulle run"
    return Project(path, manifest, Document(value, {(): (1, 1)}, {}))
