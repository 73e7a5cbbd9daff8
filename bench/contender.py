"""What a contender is: a program per hop, the port requests go to, the processes measured."""

from __future__ import annotations

import contextlib
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import process
from bench.process import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench.certificates import Side
    from bench.process import Process

    Command = Callable[["Hop"], Sequence[str | Path]]


class Shape(enum.StrEnum):
    """The way a request takes."""

    PLAIN = "plain"
    """client → proxy → application, HTTP/1.1"""
    BODY = "body"
    """the same with long bodies"""
    PAIR = "pair"
    """client → proxy ═ mTLS ═ proxy → application, HTTP/1.1"""
    GRPC = "grpc"
    """client → proxy → application, HTTP/2 without TLS"""
    TCP = "tcp"
    """client → proxy → application, bytes"""
    TCP_PAIR = "tcp-pair"
    """client → proxy ═ mTLS ═ proxy → application, bytes"""
    TLS_IN = "tls-in"
    """client ═ mTLS ═ proxy → application: one side of the pair alone"""
    TLS_OUT = "tls-out"
    """client → proxy ═ mTLS ═ application: the other side"""

    @property
    def roles(self) -> tuple[str, ...]:
        """Return the proxies on the way, the one next to the application first."""
        match self:
            case Shape.PAIR | Shape.TCP_PAIR:
                return ("server", "client")
            case Shape.TLS_IN:
                return ("server",)
            case Shape.TLS_OUT:
                return ("client",)
            case _:
                return ("proxy",)


@dataclass(frozen=True, slots=True)
class Site:
    """Where contenders run: their core, their files, the application behind them."""

    shape: Shape
    upstream: int
    """The application's port."""
    directory: Path
    core: int | None
    """The core they share; None when the machine has only one."""
    sides: dict[str, Side]


@dataclass(frozen=True, slots=True)
class Hop:
    """One proxy on the way: where it listens, where it forwards, what it speaks."""

    site: Site
    role: str
    """"proxy" where there is one; "client" and "server" in a pair."""
    listen: int
    forward_to: int
    folder: Path

    @property
    def grpc(self) -> bool:
        """Whether both sides speak HTTP/2."""
        return self.site.shape is Shape.GRPC

    @property
    def tcp(self) -> bool:
        """Whether bytes are all it sees."""
        return self.site.shape in {Shape.TCP, Shape.TCP_PAIR}

    @property
    def long(self) -> bool:
        """Whether messages are long: what is best for them may not be for short ones."""
        return self.tcp or self.site.shape is Shape.BODY

    @property
    def tls_in(self) -> Side | None:
        """What it shows to those who connect, when that is mTLS."""
        return self.site.sides["server"] if self.role == "server" else None

    @property
    def tls_out(self) -> Side | None:
        """What it shows to where it forwards, when that is mTLS."""
        return self.site.sides["client"] if self.role == "client" else None

    def write(self, name: str, text: str) -> Path:
        """Write a configuration file of this hop."""
        path = self.folder / name
        path.write_text(text)
        return path


@dataclass(frozen=True, slots=True)
class Contender:
    """A contender that runs."""

    name: str
    port: int
    """Where requests go."""
    processes: tuple[Process, ...] = ()

    def cpu_ns(self) -> int:
        """Return the CPU time used so far by all its processes."""
        return sum(one.cpu_ns() for one in self.processes)

    def rss_kib(self) -> int:
        """Return the resident memory of all its processes now."""
        return sum(one.rss_kib() for one in self.processes)

    def stop(self) -> None:
        """Stop what it runs."""
        for one in self.processes:
            one.stop()


def start_hops(name: str, site: Site, command: Command) -> Contender:
    """Start the proxies of a contender, the one next to the application first.

    *command* writes a hop's configuration and returns the program to run.
    """
    started: list[Process] = []
    port = site.upstream
    with contextlib.ExitStack() as undo:
        for role in site.shape.roles:
            folder = site.directory / f"{site.shape}-{name}-{role}"
            folder.mkdir()
            hop = Hop(site, role, free_port(), port, folder)
            proxy = process.start(f"{name}-{role}", command(hop), core=site.core, directory=folder)
            undo.callback(proxy.stop)
            process.wait_listening(proxy, hop.listen)
            started.append(proxy)
            port = hop.listen
        undo.pop_all()
    return Contender(name, port, tuple(started))
