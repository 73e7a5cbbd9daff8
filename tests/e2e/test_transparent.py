"""Programs that know nothing of the mesh, each on a machine of its own (a network namespace)."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.lan import Host, cable, missing, on, path_without_nft
from tests.e2e.mesh import APPS, BANNER, PEER, Mesh, Workload
from tests.e2e.processes import Process, eventually

reason = missing()
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(reason), reason=reason)]

WORLD_PORT, EXCLUDED_PORT, UNDECLARED_PORT = 8081, 8082, 8083
EXCLUDED_USER = 4711
PLAINTEXT = """
apiVersion: tulle.dev/v1alpha1
kind: PeerAuthentication
metadata: {name: all}
spec: {mtls: {mode: PERMISSIVE}}
"""


class Lan:
    """Three callees, a caller, and a machine that is not of the mesh."""

    def __init__(self, folder: Path, hosts: list[Host]) -> None:
        """Start everything, and wait until it is ready."""
        self._folder = folder
        self.control, self.web_host, self.cart_host, self.till_host, self.world = hosts[:5]
        self.desk_host = hosts[5]
        self._processes = [
            self._serve(self.world, "peer", "world", WORLD_PORT),
            self._serve(self.world, "peer", "world", EXCLUDED_PORT),
            self._serve(self.cart_host, "peer", "undeclared", UNDECLARED_PORT),
        ]
        self.resolver = self._serve(self.world, "resolver", "resolver", 53)
        self.mesh = Mesh(folder, self.control)
        self.shop = self.mesh.namespace("shop")
        for name in ("cart", "till", "desk", "banner"):
            self.shop.service(name, "tcp" if name == "banner" else "http")
        self.web = self.start_web()
        self.cart = self.shop.add("cart-1", PEER, host=self.cart_host, transparent={"tproxy": True})
        # There a socket for `::` takes IPv6 alone, unless it says otherwise.
        self.till_host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/bindv6only")
        with pytest.MonkeyPatch.context() as only_iptables:
            only_iptables.setenv("PATH", path_without_nft(folder))
            wanted = {"mesh_only": True}
            self.till = self.shop.add("till-1", PEER, host=self.till_host, transparent=wanted)
            wanted = {"tproxy": True}
            self.desk = self.shop.add("desk-1", PEER, host=self.desk_host, transparent=wanted)
        self.shop.add("banner-1", BANNER, host=self.control)
        self.shop.settle()

    def start_web(self, name: str = "web") -> Workload:
        """Start the caller's sidecar."""
        wanted = {
            "exclude_ports": [EXCLUDED_PORT],
            "exclude_cidrs": [f"{self.world.ipv6}/128"],
            "exclude_uids": [EXCLUDED_USER],
        }
        return self.shop.add(name, host=self.web_host, transparent=wanted)

    def curl(self, *words: str) -> str:
        """Return what an unmodified curl gets on the caller's machine."""
        return self.web_host.run("curl", "--silent", "--show-error", "--max-time", "10", *words)

    def total(self, workload: Workload, host: Host, metric: str, *labels: str) -> int:
        """Return the sum of the series of *metric* that have *labels*."""
        text = host.run("curl", "--silent", f"http://{workload.admin}/metrics")
        lines = re.findall(rf"^{metric}(.*) (\d+)$", text, re.MULTILINE)
        return sum(int(value) for found, value in lines if all(one in found for one in labels))

    def outside(self) -> int:
        """Return how many connections the caller's sidecar has let out of the mesh."""
        opened = "tulle_tcp_connections_opened_total"
        return self.total(self.web, self.web_host, opened, 'service="outside"')

    def stop(self) -> None:
        """End everything."""
        self.shop.stop()
        self.mesh.stop()
        for process in (*self._processes, self.resolver):
            process.kill()

    def _serve(self, host: Host, app: str, name: str, port: int) -> Process:
        command = on(host, [sys.executable, "-I", str(APPS / f"{app}.py")])
        environment = {"NAME": name, "PORT": str(port), "ADDRESS": host.ipv4}
        return Process(command, self._folder / f"{name}-{port}.log", environment)


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    with ExitStack() as stack:
        hosts = stack.enter_context(cable(6, resolver=4))
        lan = Lan(tmp_path_factory.mktemp("lan"), hosts)
        stack.callback(lan.stop)
        yield lan


def dig(lan: Lan, *words: str) -> tuple[str, list[str]]:
    """Return the status and the answers that a program on the caller's machine gets."""
    answer = lan.web_host.run("dig", "+tries=1", "+time=9", *words)
    status = re.search(r"status: (\w+)", answer)
    assert status is not None, answer
    answers = re.findall(r"^[^;\s]\S*\s+\d+\s+IN\s+(?:A|AAAA)\s+(\S+)$", answer, re.MULTILINE)
    return status[1], answers


@pytest.mark.parametrize(
    "name", ["cart", "cart.shop", "cart.shop.svc", "cart.shop.svc.cluster.local"]
)
def test_a_program_calls_a_service_by_its_name_with_mutual_tls(lan: Lan, name: str) -> None:
    requests = ("tulle_requests_total", 'direction="inbound"', 'mtls="true"', 'source="shop/web"')
    before = lan.total(lan.cart, lan.cart_host, *requests)

    assert lan.curl(f"http://{name}/").split() == ["cart-1", "127.0.0.1", name]
    assert lan.total(lan.cart, lan.cart_host, *requests) == before + 1


def test_ipv6_works_as_well(lan: Lan) -> None:
    assert lan.curl("-6", "http://till/").split()[0] == "till-1"


def test_without_nft_iptables_does_the_same(lan: Lan) -> None:
    assert "TULLE-NAT-OUTPUT" in lan.till_host.run("iptables-save")
    assert "-j TPROXY" in lan.desk_host.run("iptables-save")
    for host in (lan.till_host, lan.desk_host):
        for version in ("-4", "-6"):
            said = host.run("curl", "--silent", version, "http://cart/")
            assert said.split() == ["cart-1", "127.0.0.1", "cart"]
    for version in ("-4", "-6"):
        assert lan.curl(version, "http://desk/").split() == ["desk-1", "127.0.0.1", "desk"]


def test_a_tcp_service_may_speak_first(lan: Lan) -> None:
    program = "import socket; print(socket.create_connection(('banner', 80)).recv(99).decode())"

    assert lan.web_host.run(sys.executable, "-c", program).strip() == "banner-1"


def test_what_is_not_of_the_mesh_passes_and_is_counted(lan: Lan) -> None:
    before = lan.outside()

    said = lan.curl(f"http://world.example:{WORLD_PORT}/").split()
    assert said == ["world", lan.web_host.ipv4, f"world.example:{WORLD_PORT}"]
    assert lan.outside() == before + 1


def test_exclusions_go_round_the_sidecar(lan: Lan) -> None:
    """By port, by address, by user; the same call without one does not."""
    before = lan.outside()
    user = ("setpriv", "--reuid", str(EXCLUDED_USER), "--clear-groups", "curl", "--silent")

    lan.curl(f"http://{lan.world.ipv4}:{EXCLUDED_PORT}/")
    lan.curl(f"http://[{lan.world.ipv6}]:{WORLD_PORT}/")
    lan.web_host.run(*user, f"http://{lan.world.ipv4}:{WORLD_PORT}/")
    assert lan.outside() == before
    lan.curl(f"http://{lan.world.ipv4}:{WORLD_PORT}/")
    assert lan.outside() == before + 1


def test_with_mesh_only_nothing_else_is_reached(lan: Lan) -> None:
    curl = ("curl", "--silent", "--max-time", "5")

    refused = lan.till_host.tries(*curl, f"http://{lan.world.ipv4}:{WORLD_PORT}/")
    assert refused.returncode in (52, 56), "an empty reply, or a reset"
    assert lan.till_host.run(*curl, "http://cart/").split()[0] == "cart-1"


def test_the_real_port_is_behind_the_same_policy(lan: Lan) -> None:
    """Strict closes it and every port that was not declared; plaintext opens both."""

    def call(host: Host, port: str | int) -> list[str]:
        command = ("curl", "--silent", "--max-time", "10", f"http://{host.ipv4}:{port}/")
        return lan.world.tries(*command).stdout.split()[:2]

    cart_port, till_port, desk_port = (
        one.app_address.rpartition(":")[2] for one in (lan.cart, lan.till, lan.desk)
    )
    closed = [
        call(lan.cart_host, cart_port),
        call(lan.cart_host, UNDECLARED_PORT),
        call(lan.till_host, till_port),
        call(lan.desk_host, desk_port),
    ]
    assert closed == [[], [], [], []]

    lan.shop.apply(PLAINTEXT)

    # TPROXY keeps the client's address, REDIRECT does not.
    assert call(lan.cart_host, cart_port) == ["cart-1", lan.world.ipv4]
    assert call(lan.cart_host, UNDECLARED_PORT) == ["undeclared", lan.world.ipv4]
    assert call(lan.till_host, till_port) == ["till-1", "127.0.0.1"]
    assert call(lan.desk_host, desk_port) == ["desk-1", lan.world.ipv4]
    lan.shop.delete("PeerAuthentication", "all", "tulle.dev/v1alpha1")
    assert call(lan.cart_host, cart_port) == []


REFUSED = ["127.0.0.1:15001", "[::1]:15001", "240.240.255.254", "[fd74:756c:6c65::fffe]"]


@pytest.mark.parametrize("address", REFUSED)
def test_a_loop_and_an_address_of_nobody_are_refused_at_once(lan: Lan, address: str) -> None:
    refused = (lan.web, lan.web_host, "tulle_connections_refused_total")
    before = lan.total(*refused)

    ended = lan.web_host.tries("curl", "--silent", "--max-time", "5", f"http://{address}/")

    assert ended.returncode in (52, 56), "an empty reply, or a reset"
    assert lan.total(*refused) == before + 1


def test_names_of_services_are_answered_the_same_everywhere(lan: Lan) -> None:
    given = lan.mesh.plane.call("GET", "/tulle/v1/records/service/shop/cart")["addresses"]

    for words in (("cart",), ("CART.shop",), ("+tcp", "cart.shop.svc.cluster.local")):
        assert dig(lan, *words) == ("NOERROR", given[:1])
        assert dig(lan, *words, "AAAA") == ("NOERROR", given[1:])
    assert dig(lan, "cart", "MX") == ("NOERROR", [])
    assert dig(lan, "nobody.shop.svc.cluster.local") == ("NXDOMAIN", [])


def test_who_asks_with_extensions_of_dns_is_answered_with_them(lan: Lan) -> None:
    for words in (("cart",), ("+tcp", "nobody.shop.svc.cluster.local")):
        answer = lan.web_host.run("dig", "+tries=1", "+time=9", "+dnssec", *words)
        assert "; EDNS: version: 0, flags: do; udp: 4096\n" in answer, answer
    assert "EDNS" not in lan.web_host.run("dig", "+tries=1", "+time=9", "+noedns", "cart")
    assert dig(lan, "+edns=1", "+noednsnegotiation", "cart") == ("BADVERS", [])


def test_other_names_are_asked_of_the_resolver(lan: Lan) -> None:
    for words in (("world.example",), ("+tcp", "world.example")):
        assert dig(lan, *words) == ("NOERROR", [lan.world.ipv4])
    assert dig(lan, "nobody.example") == ("NXDOMAIN", [])
    assert dig(lan, "nobody") == ("NXDOMAIN", [])


def test_a_silent_resolver_is_not_waited_for_for_ever(lan: Lan) -> None:
    lan.resolver.freeze()
    try:
        assert dig(lan, "world.example") == ("SERVFAIL", [])
        assert dig(lan, "cart")[0] == "NOERROR"
    finally:
        lan.resolver.thaw()
    answered = ("NOERROR", [lan.world.ipv4])
    eventually(lambda: dig(lan, "world.example") == answered, "it answers again")


ASK_MANY = """
import socket, struct, sys
def ask(number, *labels):
    name = b"".join(bytes([len(label)]) + label.encode() for label in labels) + bytes(1)
    one.send(struct.pack(">6H", number, 0x100, 1, 0, 0, 0) + name + struct.pack(">2H", 1, 1))
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.connect((sys.argv[1], 53))
one.settimeout(1)
for number in range(1000):
    ask(number, str(number), "a", "example")
    if number % 100 == 0:
        ask(1000 + number, "cart")
        one.recv(512)
print("answered")
"""


def test_many_questions_to_a_silent_resolver_leave_room_for_services(lan: Lan) -> None:
    lan.resolver.freeze()
    try:
        answered = lan.web_host.run(sys.executable, "-c", ASK_MANY, lan.world.ipv4)
    finally:
        lan.resolver.thaw()
    assert answered == "answered\n"


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_to_a_service_are_refused_at_once(lan: Lan, version: int) -> None:
    """A browser that tries HTTP/3 goes on with TCP."""
    program = f"""if True:
        import socket
        one = socket.socket(socket.AF_INET{"6" if version == 6 else ""}, socket.SOCK_DGRAM)
        one.settimeout(5)
        one.connect(("cart", 443))
        one.send(b"x")
        try:
            one.recv(1)
        except ConnectionRefusedError:
            print("refused")
    """
    for host in (lan.web_host, lan.till_host):  # by nft, by iptables
        assert host.run(sys.executable, "-c", program) == "refused\n"


CALL_AGAIN_AND_AGAIN = """
import sys, time, urllib.request
begin = now = time.monotonic()
count, slowest = 0, 0.0
while now < begin + float(sys.argv[1]):
    assert urllib.request.urlopen("http://cart/", timeout=10).read().split()[0] == b"cart-1"
    count, slowest, now = count + 1, max(slowest, time.monotonic() - now), time.monotonic()
print(count, slowest)
"""
UPGRADE_SECONDS = 8.0
DNS_RETRY_SECONDS = 5
"""When the C library asks again."""


def test_an_upgrade_of_sidecars_that_intercept_fails_no_call(lan: Lan, tmp_path: Path) -> None:
    """Each call asks DNS and connects anew; meanwhile, both sides get a new sidecar.

    The caller's is as if it had been asked to intercept on the command line.
    """
    web_rules = lan.web_host.run("nft", "list", "ruleset")
    command = [sys.executable, "-c", CALL_AGAIN_AND_AGAIN, str(UPGRADE_SECONDS)]
    calls = Process(on(lan.web_host, command), tmp_path / "calls.log")

    settings = lan.web.folder / "settings.json"
    silent = {k: v for k, v in json.loads(settings.read_text()).items() if k != "transparent"}
    settings.write_text(json.dumps(silent))
    for workload in (lan.web, lan.cart):
        assert lan.shop.upgrade(workload).wait() == 0
    assert calls.wait() == 0, calls.output

    count, slowest = map(float, calls.output.split())
    assert count > 5 * UPGRADE_SECONDS
    assert slowest < DNS_RETRY_SECONDS - 1, "no question was lost"
    assert lan.web_host.run("nft", "list", "ruleset") == web_rules
    assert lan.curl("http://cart/").split()[0] == "cart-1"


def test_a_sidecar_that_ends_leaves_nothing_and_one_that_crashed_is_cleaned_up_after(
    lan: Lan,
) -> None:
    def in_force() -> str:
        rules = lan.web_host.run("nft", "list", "ruleset")
        routes = [lan.web_host.run("ip", version, "route") for version in ("-4", "-6")]
        return rules + "".join(routes)

    lan.shop.drain(lan.web)
    nothing = in_force()
    assert "tulle" not in nothing
    assert "240.240" not in nothing

    crashed = lan.start_web("web-crashed")
    lan.shop.settle()
    assert "table inet tulle" in in_force()
    crashed.sidecar.kill()
    assert "table inet tulle" in in_force()
    lan.shop.add("web-plain", host=lan.web_host)  # its start finds the rules of nobody
    lan.shop.settle()
    assert in_force() == nothing

    lan.web = lan.start_web("web-again")
    lan.shop.settle()
    assert lan.curl("http://cart/").split()[0] == "cart-1"


ASK_AGAIN_AND_AGAIN = """
import socket, sys
while True:
    try:
        one = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=0.2)
        one.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        print("answered" if one.recv(1) == b"H" else "closed", flush=True)
    except OSError:
        print("refused", flush=True)
"""


@pytest.mark.parametrize("name", ["cart", "till", "desk"])  # TPROXY, REDIRECT, TPROXY of iptables
def test_a_crash_and_the_start_after_it_open_no_port(lan: Lan, tmp_path: Path, name: str) -> None:
    workload, host = {
        "cart": (lan.cart, lan.cart_host),
        "till": (lan.till, lan.till_host),
        "desk": (lan.desk, lan.desk_host),
    }[name]
    port = workload.app_address.rpartition(":")[2]
    command = [sys.executable, "-c", ASK_AGAIN_AND_AGAIN, host.ipv4, port]
    caller = Process(on(lan.world, command), tmp_path / "caller.log")

    def more_calls() -> None:
        before = caller.output.count("\n")
        eventually(lambda: caller.output.count("\n") > before + 1, "it called once more")

    more_calls()
    workload.sidecar.kill()
    more_calls()
    with pytest.MonkeyPatch.context() as only_iptables:
        if workload is not lan.cart:
            only_iptables.setenv("PATH", path_without_nft(tmp_path))
        lan.shop.upgrade(workload)
    more_calls()
    caller.kill()

    assert "answered" not in caller.output
    assert lan.curl(f"http://{name}/").split()[0] == f"{name}-1"


def test_a_second_sidecar_of_one_machine_says_who_intercepts(lan: Lan) -> None:
    second = lan.shop.add("second", host=lan.till_host, transparent={})

    assert second.sidecar.wait() == 2
    assert f"process {lan.till.sidecar.pid} intercepts" in second.sidecar.output
    del lan.shop.workloads["second"]
    assert lan.till.sidecar.running


def test_tulle_run_intercepts_as_long_as_its_program_runs(lan: Lan, tmp_path: Path) -> None:
    program = ("nft", "list", "table", "inet", "tulle")
    command = (sys.executable, "-m", "tulle", "run", "--transparent", "--", *program)

    ran = lan.world.run("env", f"TULLE_HOME={tmp_path}", *command)

    assert "redirect to :15001" in ran
    assert "tulle" not in lan.world.run("nft", "list", "tables")


def test_a_dry_run_prints_the_rules_and_starts_nothing(lan: Lan, tmp_path: Path) -> None:
    settings = json.loads((lan.till.folder / "settings.json").read_text())
    settings["inbound"][0]["listen"] = f"{lan.world.ipv4}:7777"
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    command = (sys.executable, "-m", "tulle", "sidecar", "--settings", f"{tmp_path}/settings.json")

    for words in [("--transparent", "--mesh-only"), ()]:  # as its settings say it, too
        printed = lan.world.run(*command, *words, "--dry-run")
        assert "tcp dport { 22, 7777 } return" in printed
        assert "tulle" not in lan.world.run("nft", "list", "tables")


def test_without_the_control_plane_names_are_answered_at_once(lan: Lan) -> None:
    """The last test here: it ends the control plane."""
    lan.curl("http://cart/")
    lan.mesh.stop()
    eventually(lambda: "disconnected" in lan.web.sidecar.output, "the sidecar noticed")

    assert dig(lan, "+time=1", "world.example") == ("NOERROR", [lan.world.ipv4])
    assert dig(lan, "+time=1", "nas") == ("NOERROR", [lan.world.ipv4])
    # Nobody can tell whether there is a service of such a name.
    for name in ("nobody", "other.example"):
        assert dig(lan, "+time=1", name) == ("SERVFAIL", [])
    assert dig(lan, "+time=1", "www.other.example") == ("NXDOMAIN", [])
    assert lan.curl("http://cart/").split()[0] == "cart-1"
