"""Interception's rules in real network namespaces: set up, changed, removed without a trace."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lan import inside, missing, network_namespace, path_without_nft
from tulle.errors import SettingsError
from tulle.sidecar import intercept, rules
from tulle.sidecar.rules import Interception

reason = missing()
needs_network = pytest.mark.skipif(bool(reason), reason=reason)

EVERYTHING = (
    *("--inbound-port", "15006", "--dns-port", "15053", "--exclude-port", "5432"),
    *("--exclude-port", "6379", "--exclude-cidr", "10.1.0.0/16", "--exclude-cidr", "fd00::/8"),
    *("--exclude-user", "nobody", "--exclude-user", "4711"),
)
MODES = [EVERYTHING, ("--inbound-port", "15006", "--tproxy")]


@pytest.fixture
def namespace() -> Iterator[str]:
    with network_namespace() as name:
        yield name


@pytest.fixture(params=["nft", "iptables"])
def tulle(request: pytest.FixtureRequest, namespace: str, tmp_path: Path) -> "Tulle":
    """`tulle intercept` in the namespace, on a machine with nft or without."""
    return Tulle(namespace, request.param, tmp_path)


class Tulle:
    """The command line, and what the kernel has in force."""

    def __init__(self, namespace: str, tool: str, folder: Path) -> None:
        self.namespace = namespace
        self.path = os.environ["PATH"] if tool == "nft" else path_without_nft(folder)
        for save in ("iptables-save", "ip6tables-save"):
            inside(namespace, save)  # makes tables of its own

    def __call__(self, *words: str, code: int = 0) -> str:
        command = ("ip", "netns", "exec", self.namespace, "env", f"PATH={self.path}")
        ended = subprocess.run(
            (*command, sys.executable, "-m", "tulle", "intercept", *words),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == code, ended.stderr
        return ended.stdout + ended.stderr

    def in_force(self) -> str:
        found = [inside(self.namespace, "nft", "--stateless", "list", "tables")]
        for tool in ("iptables-save", "ip6tables-save"):
            found += [
                line
                for line in inside(self.namespace, tool).splitlines()
                if line[:1] == "-" or "TULLE" in line
            ]
        if "inet tulle" in found[0]:
            found.append(inside(self.namespace, "nft", "list", "table", "inet", "tulle"))
        else:
            found[0] = ""  # iptables leaves empty tables of its own
        for version in ("-4", "-6"):
            for what in (("rule",), ("route", "show", "table", "all")):
                found.append(inside(self.namespace, "ip", version, *what))
        return "\n".join(found)


@needs_network
@pytest.mark.parametrize("mode", MODES, ids=["everything", "tproxy"])
def test_set_up_twice_is_the_same_and_removal_leaves_nothing(
    tulle: Tulle, mode: tuple[str, ...]
) -> None:
    before = tulle.in_force()

    tulle("up", *mode)
    once = tulle.in_force()
    tulle("up", *mode)

    assert tulle.in_force() == once != before
    assert "15001" in tulle("show")
    tulle("down")
    assert tulle.in_force() == before
    tulle("down")
    tulle("show", code=1)


@needs_network
def test_another_mode_takes_the_place_of_the_one_before(tulle: Tulle) -> None:
    tulle("up", *MODES[1])
    tulle("up", *MODES[0])
    changed = tulle.in_force()
    tulle("down")
    tulle("up", *MODES[0])

    assert tulle.in_force() == changed


@needs_network
def test_a_dry_run_prints_what_would_be_done_and_changes_nothing(tulle: Tulle) -> None:
    before = tulle.in_force()

    script = tulle("up", *EVERYTHING, "--dry-run")

    assert tulle.in_force() == before
    command = ("ip", "netns", "exec", tulle.namespace, "sh", "-e", "-c", script)
    subprocess.run(command, check=True)
    by_hand = tulle.in_force()
    tulle("down")
    tulle("up", *EVERYTHING)
    assert tulle.in_force() == by_hand


@needs_network
def test_what_a_crash_has_left_is_removed_by_the_next_start(namespace: str) -> None:
    """And what belongs to a sidecar that runs is not."""
    program = """
import os, subprocess, sys
from tulle.errors import SettingsError
from tulle.sidecar.intercept import in_force, remove, remove_leftover, set_up
from tulle.sidecar.rules import Interception
holder = subprocess.Popen(["sleep", "60"])
set_up(Interception(outbound=15001), holder.pid)
try:
    set_up(Interception(outbound=15002), os.getpid())
except SettingsError as error:
    assert f"process {holder.pid}" in str(error), error
else:
    sys.exit("two sidecars intercept one namespace")
set_up(Interception(outbound=15001), holder.pid, "state")
set_up(Interception(outbound=15001), os.getpid(), "state")  # a successor
set_up(Interception(outbound=15001), holder.pid, "state")
assert not remove_leftover() and "15001" in in_force()
holder.kill()
holder.wait()
assert remove_leftover() and in_force() == ""
assert not remove_leftover()
"""
    inside(namespace, sys.executable, "-c", program)


@needs_network
@pytest.mark.parametrize("runs", [True, False], ids=["running", "failed"])
def test_a_sidecar_that_ends_leaves_a_successors_rules(
    namespace: str, tmp_path: Path, *, runs: bool
) -> None:
    """Unless that one has failed: then nobody else would remove them."""
    program = f"""
import json, os, pathlib, subprocess
from tulle.sidecar.intercept import in_force, main, set_up
from tulle.sidecar.rules import Interception
successor = subprocess.Popen(["sleep", "60"])
set_up(Interception(outbound=15001), successor.pid, "state")
if not {runs}:
    successor.kill()
    successor.wait()
pathlib.Path("{tmp_path}", "sidecar.json").write_text(json.dumps({{"pid": os.getpid()}}))
try:
    main("{tmp_path}", ["down", "0"])
except SystemExit as ended:
    assert ended.code == 0
assert bool(in_force()) is {runs}
successor.kill()
"""
    inside(namespace, sys.executable, "-c", program)


@needs_network
def test_a_successor_that_fails_leaves_the_rules_to_its_predecessor(
    namespace: str, tmp_path: Path
) -> None:
    program = f"""
import json, os, pathlib, subprocess
from tulle.sidecar.intercept import in_force, main, remove_leftover, set_up
from tulle.sidecar.rules import Interception
predecessor = subprocess.Popen(["sleep", "60"])
place = pathlib.Path("{tmp_path}", "sidecar.json")
place.write_text(json.dumps({{"pid": predecessor.pid}}))  # it serves
set_up(Interception(outbound=15001), os.getpid(), "{tmp_path}")
try:
    main("{tmp_path}", ["down", "1"])
except SystemExit as ended:
    assert ended.code == 1
assert "15001" in in_force() and not remove_leftover()
predecessor.kill()
predecessor.wait()
assert remove_leftover() and in_force() == ""
"""
    inside(namespace, sys.executable, "-c", program)


@needs_network
@pytest.mark.parametrize("serves", [True, False], ids=["serving", "crashed"])
def test_a_start_that_the_kernel_refuses_leaves_what_was_there(
    namespace: str, tmp_path: Path, *, serves: bool
) -> None:
    """To a predecessor that goes on, or closed as a crash has left it."""
    program = f"""
import json, os, pathlib, subprocess
from tulle.errors import StartError
from tulle.sidecar.intercept import in_force, main, set_up
from tulle.sidecar.rules import Interception
first = subprocess.Popen(["sleep", "60"])
set_up(Interception(outbound=15001), first.pid, "{tmp_path}")
before = in_force()
pathlib.Path("{tmp_path}", "sidecar.json").write_text(json.dumps({{"pid": first.pid}}))
if not {serves}:
    first.kill()
    first.wait()
try:
    set_up(Interception(outbound=15002, exclude_ports=(70000,)), os.getpid(), "{tmp_path}")
except StartError:
    assert in_force() == before
else:
    raise AssertionError("a port of 70000 was taken")
try:
    main("{tmp_path}", ["down", "1"])
except SystemExit as ended:
    assert ended.code == 1
assert in_force() == before
first.kill()
"""
    inside(namespace, sys.executable, "-c", program)


@needs_network
def test_a_start_takes_the_place_of_what_the_other_tool_has_left(
    namespace: str, tmp_path: Path
) -> None:
    """It keeps closed what a crash has left, and can ask the resolvers before it answers itself."""
    resolv = Path("/etc/netns", namespace, "resolv.conf")
    resolv.parent.mkdir(parents=True)
    resolv.write_text("nameserver 10.0.0.1\n")
    program = f"""
import os, pathlib, subprocess
from tulle.sidecar.intercept import in_force, prepare, set_up
from tulle.sidecar.rules import Interception
first = subprocess.Popen(["sleep", "60"])
path, os.environ["PATH"] = os.environ["PATH"], "{path_without_nft(tmp_path)}"
wanted = Interception(outbound=15001, inbound=15006, dns=15053, resolvers=("10.0.0.1",))
set_up(wanted, first.pid, "{tmp_path}")
assert ":15006" not in in_force() and "--to-ports 15053" in in_force()
first.kill()
first.wait()
os.environ["PATH"] = path
prepare({{}}, pathlib.Path("{tmp_path}"))
assert "redirect to :15006" in in_force() and "15053" not in in_force()
assert "TULLE" not in subprocess.check_output(["iptables-save"], text=True)
"""
    inside(namespace, sys.executable, "-c", program)


@needs_network
def test_what_the_kernel_refuses_leaves_nothing_behind(namespace: str) -> None:
    program = """
from tulle.errors import StartError
from tulle.sidecar.intercept import in_force, set_up
from tulle.sidecar.rules import Interception
try:
    set_up(Interception(outbound=15001, exclude_ports=(70000,)))
except StartError as error:
    assert "nft" in str(error), error
    assert in_force() == ""
else:
    raise AssertionError("a port of 70000 was taken")
"""
    inside(namespace, sys.executable, "-c", program)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up a privilege")
@pytest.mark.parametrize("words", [("intercept", "up"), ("run", "--transparent", "--", "true")])
def test_a_missing_privilege_is_named(words: tuple[str, ...]) -> None:
    command = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    ended = subprocess.run(
        (*command, sys.executable, "-m", "tulle", *words),
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 2
    assert "needs root or CAP_NET_ADMIN" in ended.stderr


@pytest.mark.parametrize("version", [4, 6])
def test_every_chain_of_iptables_can_be_removed_again(version: int) -> None:
    wanted = Interception(outbound=1, inbound=2, dns=3, resolvers=("10.0.0.1",), tproxy=True)
    tables = rules.iptables_tables(wanted, version)

    assert {(table, hook) for table, hooks in tables.items() for hook in hooks} <= set(rules.HOOKS)


def test_the_sidecar_itself_is_the_first_exception() -> None:
    first = rules.nft_script(Interception(outbound=15001)).splitlines()[5]

    assert first.split() == ["meta", "mark", f"{rules.MARK:#x}", "return"]


RESOLV = """
search a.example
nameserver 10.0.0.1
# nameserver 9.9.9.9
nameserver 169.254.169.253
nameserver fe80::1%eth0
nameserver fd00::1
nameserver a-name
nameserver
"""


def test_resolvers_are_read_from_resolv_conf(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    assert intercept.resolvers(file) == ()
    file.write_text(RESOLV)

    assert intercept.resolvers(file) == ("10.0.0.1", "169.254.169.253", "fd00::1")


def test_an_unknown_user_is_named() -> None:
    assert intercept.uid_of("4711") == 4711
    with pytest.raises(SettingsError, match='no user "nobody-here"'):
        intercept.uid_of("nobody-here")
