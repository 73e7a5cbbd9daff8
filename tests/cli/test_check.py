"""check: what is healthy passes, each trouble is named with a way out."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import tulle as package
from tulle.cli.exits import ExitCode


def root(days: int) -> str:
    """Return a root certificate that is valid for *days* from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tulle root")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=days, hours=1))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def healthy(plane):
    plane.version = package.__version__
    plane.bundle = root(3650)
    plane.put("Service", "cart", {"ports": [{"port": 80}], "selector": {"app": "cart"}})
    plane.put(
        "Workload",
        "cart-1",
        {"address": "127.0.0.1", "ports": [{"port": 80, "listen": 9100}]},
        labels={"app": "cart"},
        status={"ready": True, "connected": True, "draining": False},
    )
    plane.proxies = [
        {
            "workload": "default/cart-1",
            "connected": True,
            "ready": True,
            "draining": False,
            "version": package.__version__,
            "records": [{"name": "service/default/cart", "error": None, "in_sync": True}],
        }
    ]
    return plane


def findings(answer, result):
    return [
        check
        for category in answer["categories"]
        for check in category["checks"]
        if check["result"] == result
    ]


def test_a_healthy_mesh_passes(tulle, healthy):
    result = tulle("check")
    assert result.code == ExitCode.OK
    assert result.lines[-1].endswith(" passed, 0 warnings, 0 failed")
    answer = tulle("check", "-o", "json").json
    assert answer["success"] is True
    assert findings(answer, "failed") == findings(answer, "warning") == []
    assert [c["categoryName"] for c in answer["categories"]] == [
        "control plane",
        "identity",
        "data plane",
        "resources",
    ]


def test_short_shows_only_what_is_wrong(tulle, healthy):
    assert len(tulle("check", "-o", "short").lines) == 1


def break_connection(plane):
    plane.proxies[0]["connected"] = False


def break_probe(plane):
    plane.proxies[0]["ready"] = False


def break_record(plane):
    plane.proxies[0]["records"][0]["error"] = "bad regex"


def set_route_aside(plane):
    dangling_route(plane)
    plane.objects["HTTPRoute", "default", "cart"]["spec"]["rules"] = 1


def expire_root(plane):
    plane.bundle = root(-1)


@pytest.mark.parametrize(
    ("damage", "description", "hint"),
    [
        (break_connection, "default/cart-1 is connected", "look at it with: tulle ps"),
        (break_probe, "default/cart-1 is ready", "tulle logs cart-1"),
        (
            break_record,
            "default/cart-1 accepts service/default/cart",
            "tulle proxy status default/cart-1",
        ),
        (
            set_route_aside,
            "HTTPRoute default/cart is applied",
            "tulle apply what is right, or tulle delete httproute/default/cart",
        ),
        (expire_root, "the root CN=tulle root is valid for -1 days", "start a control plane on"),
    ],
)
def test_each_failure_is_named_with_a_way_out(tulle, healthy, damage, description, hint):
    damage(healthy)
    result = tulle("check", "-o", "json")
    assert result.code == ExitCode.NO
    (failed,) = findings(result.json, "failed")
    assert failed["description"] == description
    assert failed["hint"].startswith(hint)
    text = tulle("check")
    assert text.code == ExitCode.NO
    assert f"✗ {description}" in text.out
    assert f"    hint: {hint}" in text.out


def soon_expired(plane):
    plane.bundle = root(9)


def other_version(plane):
    plane.version = "9.9.9"


def no_endpoint(plane):
    plane.objects.pop(("Workload", "default", "cart-1"))


def dangling_route(plane):
    plane.put(
        "HTTPRoute",
        "cart",
        {
            "parentRefs": [{"group": "", "kind": "Service", "name": "cart"}],
            "rules": [{"backendRefs": [{"name": "crat", "port": 80}]}],
        },
    )


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (soon_expired, "until 20"),
        (other_version, f"client {package.__version__}, server 9.9.9"),
        (no_endpoint, "no workload has the labels it selects"),
        (dangling_route, "there is no Service default/crat"),
    ],
)
def test_each_warning_is_told_and_does_not_fail(tulle, healthy, damage, error):
    damage(healthy)
    result = tulle("check", "-o", "json")
    assert result.code == ExitCode.OK
    (warning,) = findings(result.json, "warning")
    assert error in warning["error"]
    assert warning["hint"]


def test_without_a_control_plane_that_is_the_one_finding(tulle):
    result = tulle("check", "-o", "json")
    assert result.code == ExitCode.NO
    (failed,) = findings(result.json, "failed")
    assert failed["description"] == "the API answers"
    assert "tulle up" in failed["hint"]


def test_wait_ends_when_all_is_well(tulle, healthy):
    assert tulle("check", "--wait", "1m").code == ExitCode.OK
