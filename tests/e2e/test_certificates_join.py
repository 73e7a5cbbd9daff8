"""Joining by token: once, in time, as whom it is for, and only the real control plane."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e.processes import eventually
from tests.e2e.security_support import Mesh, Sidecar, running_mesh
from tulle.identity.authority import CertificateAuthority

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("join")) as mesh:
        yield mesh


def new_token(mesh: Mesh, ttl_s: int = 300, uses: int = 1, service: str | None = None) -> str:
    body = {
        "namespace": "shop",
        "service_account": "cart",
        "service": service,
        "ttl_s": ttl_s,
        "uses": uses,
    }
    token: str = mesh.plane.call("POST", "/tulle/v1/tokens", body)["token"]
    return token


def uses_left(mesh: Mesh, token: str) -> int:
    listed = mesh.plane.call("GET", "/tulle/v1/tokens")["tokens"]
    left: int = next(one["uses_left"] for one in listed if one["id"] == token.partition(".")[0])
    return left


def refusal(sidecar: Sidecar, token: str) -> str:
    """Start *sidecar*, which must not come in; return why."""
    sidecar.start(token)
    error: str = sidecar.wait_event("failed")["error"]
    assert sidecar.process.wait() == 1
    assert not list(sidecar.state_dir.glob("*identity*"))
    return error


def test_a_token_lets_one_sidecar_in(mesh: Mesh) -> None:
    token = new_token(mesh)
    first = mesh.add("shop/first", account="cart", start=False)
    second = mesh.add("shop/second", account="cart", start=False)
    first.start(token)
    assert first.wait_event("joined")["how"] == "joined"

    assert re.search(r"join refused: .*was used already", refusal(second, token))
    assert uses_left(mesh, token) == 0


def test_a_token_for_two_lets_two_in(mesh: Mesh) -> None:
    token = new_token(mesh, uses=2)
    for name in ("shop/twin-1", "shop/twin-2"):
        twin = mesh.add(name, account="cart", start=False)
        twin.start(token)
        assert twin.wait_event("joined")["how"] == "joined"

    third = mesh.add("shop/twin-3", account="cart", start=False)
    assert "was used already" in refusal(third, token)


def test_an_expired_token_is_refused(mesh: Mesh) -> None:
    token = new_token(mesh, ttl_s=1)
    late = mesh.add("shop/late", account="cart", start=False)
    eventually(lambda: token.partition(".")[0] not in mesh.text("/tulle/v1/tokens"), "it expires")

    assert "expired" in refusal(late, token)


WRONG = [
    pytest.param("other/cart-1", "cart", 'is for namespace "shop", not "other"', id="namespace"),
    pytest.param("shop/admin-1", "admin", 'is for service account "cart"', id="service-account"),
]


@pytest.mark.parametrize(("name", "account", "reason"), WRONG)
def test_a_token_is_for_one_identity(mesh: Mesh, name: str, account: str, reason: str) -> None:
    token = new_token(mesh)
    thief = mesh.add(name, account=account, start=False)

    assert reason in refusal(thief, token)
    assert uses_left(mesh, token) == 1


def test_a_token_for_a_service_lets_only_its_workloads_in(mesh: Mesh) -> None:
    token = new_token(mesh, service="catalog")
    cart = mesh.add("shop/not-catalog", account="cart", start=False)

    assert 'is for service "catalog" only' in refusal(cart, token)


UNKNOWN = ["nonsense", "0123456789abcdef." + "a" * 43, "." * 300]


@pytest.mark.parametrize("token", UNKNOWN, ids=["words", "unknown", "dots"])
def test_an_unknown_token_is_refused_without_a_hint(mesh: Mesh, token: str) -> None:
    guesser = mesh.add(f"shop/guesser-{UNKNOWN.index(token)}", account="cart", start=False)

    assert refusal(guesser, token).endswith(" 403: join token: is not known here")


def test_a_wrong_secret_does_not_cost_the_token_a_use(mesh: Mesh) -> None:
    token = new_token(mesh)
    guesser = mesh.add("shop/near", account="cart", start=False)

    assert "is not known here" in refusal(guesser, token[:-1] + ("a" if token[-1] != "a" else "b"))
    assert uses_left(mesh, token) == 1


def test_a_token_is_not_handed_to_a_foreign_control_plane(mesh: Mesh, tmp_path: Path) -> None:
    token = new_token(mesh)
    foreign = CertificateAuthority(tmp_path, "tulle.local", lambda: datetime.now(UTC))
    (tmp_path / "roots.pem").write_text(foreign.bundle_pem)
    careful = mesh.add("shop/careful", account="cart", start=False)
    careful.settings["roots_pem_path"] = str(tmp_path / "roots.pem")

    assert "invalid peer certificate" in refusal(careful, token)
    assert uses_left(mesh, token) == 1


def test_a_token_is_in_no_process_listing(mesh: Mesh) -> None:
    token = new_token(mesh)
    sidecar = mesh.add("shop/quiet", account="cart", start=False)
    secret = token.partition(".")[2].encode()

    sidecar.start(token)
    seen = []

    def has_joined() -> bool:
        for process in Path("/proc").glob("[0-9]*"):
            for file in ("cmdline", "environ"):
                try:
                    seen.append(secret in (process / file).read_bytes())
                except OSError:  # it has ended, or is another user's
                    continue
        return any(event["event"] == "joined" for event in sidecar.events())

    eventually(has_joined, "it joins")
    assert seen
    assert not any(seen)
