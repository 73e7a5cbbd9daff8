"""token create, list and revoke; and version."""

import pytest

import tulle as package
from tulle.cli.exits import ExitCode


def test_create_prints_the_token_alone_on_stdout(tulle, plane):
    result = tulle("token", "create", "--service-account", "cart", "-n", "shop", "--ttl", "1h")
    assert result.code == ExitCode.OK
    assert result.out == "secret-0000\n"
    assert "shop/cart, 1 use, expires 2026-01-01T00:15:00Z" in result.err
    assert plane.asked[-1][2] == {
        "namespace": "shop",
        "service_account": "cart",
        "service": None,
        "ttl_s": 3600,
        "uses": 1,
    }


def test_list_and_revoke(tulle, plane):
    tulle("token", "create", "--service-account", "cart", "--uses", "20")
    assert tulle("token", "list", "-o", "name").lines == ["0000"]
    assert tulle("token", "list").lines[1].split()[:3] == ["0000", "default", "cart"]
    assert tulle("token", "revoke", "0000").lines == ["0000 revoked"]
    assert tulle("token", "list").err == "no tokens\n"


def test_revoking_what_is_not_there_is_not_found(tulle, plane):
    tulle("token", "create", "--service-account", "cart")
    result = tulle("token", "revoke", "0001")
    assert result.code == ExitCode.NOT_FOUND
    assert 'did you mean "0000"?' in result.err


@pytest.mark.parametrize("ttl", ["15", "1x", "", "-5m"])
def test_a_duration_needs_a_unit(tulle, plane, ttl):
    result = tulle("token", "create", "--service-account", "cart", f"--ttl={ttl}")
    assert result.code == ExitCode.USAGE
    assert "500ms, 30s, 15m or 24h" in result.err


def test_version_names_all_that_speak(tulle, plane):
    plane.proxies = [{"version": "0.1.0"}, {"version": "0.1.0"}, {"version": None}]
    facts = tulle("version", "-o", "json").json
    assert (facts["client"], facts["server"]) == (package.__version__, "0.1.0")
    assert facts["sidecars"] == {"0.1.0": 2}
    assert "2x 0.1.0" in tulle("version").out


def test_version_without_a_server_is_no_error(tulle):
    result = tulle("version", "-o", "json")
    assert result.code == ExitCode.OK
    assert result.json["server"] is None
    assert "server" not in tulle("version", "--client", "-o", "json").json


def test_a_token_without_uses_left_is_not_listed(tulle, plane):
    tulle("token", "create", "--service-account", "cart")
    plane.tokens[0]["uses_left"] = 0
    assert tulle("token", "list", "-o", "name").lines == []
    assert tulle("token", "revoke", "0000").code == ExitCode.OK
