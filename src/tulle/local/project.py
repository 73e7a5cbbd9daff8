"""`tulle.yaml`: the apps of a project, how each is started and whom it calls."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field, PlainValidator, ValidationError, model_validator

from tulle.errors import InvalidResources, NotFound, Violation
from tulle.local.paths import FILE_NAME
from tulle.local.paths import home_of as home_of  # noqa: PLC0414  # part of this module's surface
from tulle.resources.model import Model
from tulle.resources.text import Document, MalformedText, documents
from tulle.resources.values import (
    Boolean,
    DnsLabel,
    DnsSubdomain,
    Duration,
    Labels,
    PortNumber,
    Timeout,
    wrong,
)
from tulle.resources.violations import (
    UNKNOWN_KEY,
    Location,
    Problems,
    keys_at,
    located,
    path_text,
    suggest,
)

REPLICAS_MAX = 50
"""On one machine; more would measure the machine, not the mesh."""

Protocol = Literal["http", "http2", "grpc", "tcp", "auto"]


def _command(value: object) -> object:
    if isinstance(value, str):
        if not value.strip():
            raise wrong("is empty", "a command line, or a list of its words")
        return value
    if isinstance(value, list) and value and all(isinstance(word, str) for word in value):
        return tuple(value)
    raise wrong("is not a command", "a command line, or a list of words (numbers in quotes)")


def _variable(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _dependency(value: object) -> object:
    return {"service": value} if isinstance(value, str) else value


def _paths(value: object) -> object:
    return [value] if isinstance(value, str) else value


Command = Annotated[str | tuple[str, ...], PlainValidator(_command)]
Variable = Annotated[str, BeforeValidator(_variable)]


class Target(NamedTuple):
    """A service that an app calls."""

    namespace: str
    service: str
    port: int | None
    """None when the dependency does not say: the service's only or first port."""


class Dependency(Model):
    """A service that the app calls, written as `cart`, `shop/cart`, `redis:6379` or a mapping."""

    service: str
    """Name, with `namespace/` before it for another namespace and `:port` behind it for a port."""
    condition: Literal["ready", "started"] = "ready"
    """What must be true of the service before this app is started."""

    def target(self, namespace: str) -> Target:
        """Return what is meant, seen from *namespace*."""
        rest, _, port = self.service.partition(":")
        inner, _, name = rest.rpartition("/")
        return Target(inner or namespace, name, int(port) if port else None)

    @model_validator(mode="after")
    def _check_service(self) -> "Dependency":
        rest, colon, port = self.service.partition(":")
        good = all(part and part.replace("-", "").isalnum() for part in rest.split("/"))
        if not good or rest.count("/") > 1 or (colon and not port.isdecimal()):
            problems = Problems()
            allowed = "cart, shop/cart, redis:6379 or shop/redis:6379"
            problems.add(("service",), f'"{self.service}" is not a service', allowed)
            problems.raise_any()
        return self


class Readiness(Model):
    """How to see that the app can take requests; a TCP connection by default."""

    tcp: Boolean = True
    """Ready once the port accepts a connection."""
    http: str | None = None
    """Ready once GET on this path answers 200 to 399; written as `/healthz`."""


class App(Model):
    """One program, started once per replica, each with a sidecar of its own."""

    command: Command
    """A line for the shell, or a list of words."""
    service: DnsLabel | None = None
    """The service it belongs to: the app's name if left out; null for an app that only calls."""
    namespace: DnsLabel | None = None
    """The namespace of service and workload: the one of `mesh` if left out."""
    service_account: DnsSubdomain | None = None
    """The identity's last part; the service's name, or the app's, if left out."""
    port: PortNumber | None = None
    """The port it listens on; if left out it must listen on $PORT, which differs per replica."""
    service_port: PortNumber = 80
    """The number that other apps call, unless `resources` hold the Service."""
    protocol: Protocol = "http"
    """What is spoken on the port; auto: each connection shows it."""
    proxy_protocol: bool = False
    """Plain callers begin with a PROXY protocol header (version 2), as load balancers send it;
    none is let in without. On tcp it is passed on to the app."""
    labels: Labels = Field(default_factory=dict)
    """Labels of its workloads; `app` is added with the service's name."""
    replicas: Annotated[int, Field(ge=0, le=REPLICAS_MAX)] = 1
    """How many are started."""
    environment: dict[str, Variable] = Field(default_factory=dict)
    """Variables that are added to the runner's own."""
    working_directory: str = "."
    """Relative to the file's folder."""
    readiness: Readiness = Field(default_factory=Readiness)
    """When it counts as ready."""
    depends_on: tuple[Annotated[Dependency, BeforeValidator(_dependency)], ...] = ()
    """Services it calls: each gets a local address, in TULLE_<SERVICE>_URL and _ADDR."""
    restart: Literal["on-failure", "always", "never"] = "on-failure"
    """When an ended process is started again."""
    stop_timeout: Timeout = Duration("10s")
    """What it gets between SIGTERM and SIGKILL."""

    @model_validator(mode="after")
    def _check_replicas(self) -> "App":
        if self.port is not None and self.replicas > 1:
            problems = Problems()
            problems.add(
                ("replicas",),
                f"{self.replicas} replicas cannot all listen on port {self.port}",
                "leave out `port` and let the app listen on $PORT",
            )
            problems.raise_any()
        return self


class MeshSettings(Model):
    """What holds for the whole project."""

    namespace: DnsLabel = "default"
    """Where apps live that name no namespace."""
    trust_domain: DnsSubdomain = "tulle.local"
    """The first part of every identity."""
    certificate_ttl: Timeout = Duration("24h")
    """How long a workload's certificate is valid; it is renewed at half of it."""
    access_log: Literal["off", "errors", "all"] = "off"
    """Which requests each sidecar writes to its access log."""


class Manifest(Model):
    """The whole file."""

    mesh: MeshSettings = Field(default_factory=MeshSettings)
    """What holds for all apps."""
    resources: Annotated[tuple[str, ...], BeforeValidator(_paths)] = ()
    """Files or folders of resources that are applied at the start, relative to the file."""
    apps: dict[DnsLabel, App]
    """The apps by name."""


class Project(NamedTuple):
    """A manifest, and where it stands."""

    path: Path
    manifest: Manifest
    document: Document

    @property
    def directory(self) -> Path:
        """The folder that relative paths start from."""
        return self.path.parent

    def place(self, *steps: str | int) -> str:
        """Return `tulle.yaml:7` for the line that holds *steps*."""
        return f"{self.path.name}:{self.document.place(steps)[0]}"

    def violation(self, steps: Location, message: str, allowed: str) -> Violation:
        """Return a violation at *steps*."""
        line, column = self.document.place(steps)
        return Violation("", path_text(steps), message, allowed, line, column, self.path.name)

    def namespace(self, app: str) -> str:
        """Return the namespace of the app called *app*."""
        return self.manifest.apps[app].namespace or self.manifest.mesh.namespace

    def service(self, app: str) -> str | None:
        """Return the service of the app called *app*; None for one that only calls."""
        found = self.manifest.apps[app]
        return found.service if "service" in found.model_fields_set else app


def find_project(start: Path, explicit: Path | None = None) -> Path:
    """Return *explicit*, or the nearest tulle.yaml from *start* upwards.

    Raises:
        NotFound: there is none.
    """
    if explicit is not None:
        found = explicit / FILE_NAME if explicit.is_dir() else explicit
        if not found.is_file():
            raise NotFound(f'"{found}" does not exist; make one with: tulle init')
        return found.absolute()
    for folder in (start.absolute(), *start.absolute().parents):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    raise NotFound(f'no {FILE_NAME} in "{start}" or above it; make one with: tulle init')


def load_project(path: Path, text: str | None = None) -> Project:
    """Return the project of the file at *path*; *text* is its content if it was read already.

    Raises:
        InvalidResources: it is not a right tulle.yaml; holds everything that is wrong.
    """
    path = path.absolute()
    document = _read(path, path.read_text() if text is None else text)
    try:
        manifest = Manifest.model_validate(document.value)
    except ValidationError as error:
        unread = Project(path, Manifest(apps={}), document)
        raise InvalidResources(
            sorted(
                (
                    unread.violation(steps, violation.message, _allowed(steps, violation))
                    for steps, violation in located(Manifest, error, "")
                ),
                key=lambda violation: (violation.line or 0, violation.column or 0),
            )
        ) from None
    project = Project(path, manifest, document)
    if violations := list(_between_apps(project)):
        raise InvalidResources(violations)
    return project


def _read(path: Path, text: str) -> Document:
    """Return the one document in *text*, which is a mapping."""
    try:
        found = list(documents(text))
    except MalformedText as error:
        line, column = error.place or (1, 1)
        raise InvalidResources(
            [Violation("", "", str(error), "", line, column, path.name)]
        ) from None
    if len(found) != 1 or not isinstance(found[0].value, dict):
        problem = "is not one mapping of keys to values"
        raise InvalidResources([Violation("", "", problem, "apps: {…}", 1, 1, path.name)])
    if problems := found[0].problems:
        raise InvalidResources(
            Violation("", path_text(one.location), one.message, one.allowed, *place, path.name)
            for place, one in problems
        )
    return found[0]


def _allowed(steps: Location, violation: Violation) -> str:
    """Return what is allowed; the keys of an app, for a key that an app does not have."""
    if violation.message != UNKNOWN_KEY or len(steps) < 3 or steps[0] != "apps":
        return violation.allowed
    known = keys_at(App, steps[2:-1])
    return suggest(str(steps[-1]), known) or f"one of {', '.join(known)}"


def _between_apps(project: Project) -> Iterator[Violation]:
    """Yield what is wrong between apps: rings of waiting, one port twice, missing files."""
    apps = project.manifest.apps
    for index, relative in enumerate(project.manifest.resources):
        if not (project.directory / relative).exists():
            message = f'"{relative}" does not exist'
            yield project.violation(("resources", index), message, "a file or folder")
    ports: dict[int, str] = {}
    for name, app in apps.items():
        if app.port is not None and (other := ports.setdefault(app.port, name)) != name:
            message = f'{app.port} is the port of "{other}" already'
            yield project.violation(("apps", name, "port"), message, "a port of its own, or $PORT")
    for name in apps:
        if ring := _ring(project, name):
            yield project.violation(
                ("apps", name, "dependsOn"),
                f"waits for itself: {' → '.join(ring)}",
                "`condition: started` on one of them",
            )
            return


def providers(project: Project, target: Target) -> list[str]:
    """Return the apps of this project that serve *target*."""
    return [
        name
        for name in project.manifest.apps
        if (project.namespace(name), project.service(name)) == target[:2]
    ]


def _ring(project: Project, start: str) -> list[str]:
    """Return the apps from *start* back to it along `condition: ready`; empty if there is none."""
    trail: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> bool:
        trail.append(name)
        for dependency in project.manifest.apps[name].depends_on:
            if dependency.condition != "ready":
                continue
            for provider in providers(project, dependency.target(project.namespace(name))):
                if provider == start:
                    trail.append(start)
                    return True
                if provider not in seen:
                    seen.add(provider)
                    if visit(provider):
                        return True
        trail.pop()
        return False

    return trail if visit(start) else []


def select_apps(project: Project, names: tuple[str, ...]) -> list[str]:
    """Return *names* and the apps they wait for, in the file's order; all for no names.

    Raises:
        NotFound: a name is not an app of the project.
    """
    apps = project.manifest.apps
    for name in names:
        if name not in apps:
            hint = suggest(name, list(apps)) or f"one of {', '.join(apps)}"
            raise NotFound(f'{project.path.name} has no app "{name}"; {hint}')
    wanted: set[str] = set()
    queue = list(names or apps)
    while queue:
        name = queue.pop()
        if name in wanted:
            continue
        wanted.add(name)
        for dependency in apps[name].depends_on:
            queue += providers(project, dependency.target(project.namespace(name)))
    return [name for name in apps if name in wanted]
