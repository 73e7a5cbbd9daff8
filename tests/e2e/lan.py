"""Network namespaces of a test's own, where there is the privilege to make them."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

TOOLS = ("ip", "nft", "iptables", "ip6tables")
_numbers = itertools.count()


def missing() -> str:
    """Return why no namespace can be made here; empty if one can."""
    if gone := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"{', '.join(gone)} missing"
    name = f"tulle-{os.getpid()}-probe"
    made = subprocess.run(("ip", "netns", "add", name), capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespaces: {made.stderr.strip()}"
    subprocess.run(("ip", "netns", "del", name), check=True)
    return ""


@contextmanager
def network_namespace() -> Iterator[str]:
    """Make a network namespace with nothing but loopback; remove it at the end."""
    name = f"tulle-{os.getpid()}-{next(_numbers)}"
    subprocess.run(("ip", "netns", "add", name), check=True)
    try:
        inside(name, "ip", "link", "set", "lo", "up")
        yield name
    finally:
        subprocess.run(("ip", "netns", "del", name), check=True)


def inside(namespace: str, *command: str) -> str:
    """Run a command in *namespace*, which must succeed; return its output."""
    ended = subprocess.run(
        ("ip", "netns", "exec", namespace, *command), capture_output=True, text=True, check=False
    )
    if ended.returncode:
        pytest.fail(f"{' '.join(command)}: {ended.stderr}")
    return ended.stdout
