"""What a replica is given: settings of its sidecar, environment of its program."""

from pathlib import Path

from tulle.local.manifests import implied_namespaces, implied_services, services_in
from tulle.local.paths import Home
from tulle.local.plan import ServicePort, app_environment, plan_replica, sidecar_settings
from tulle.local.project import Project, load_project

TEXT = """
mesh: {namespace: shop}
apps:
  redis: {command: r, servicePort: 6379, protocol: tcp}
  cart:
    command: c
    labels: {version: v2}
    readiness: {http: /healthz}
    dependsOn: [redis, 'bank/ledger:7000', wallet]
  load: {command: l, service: null, dependsOn: [cart]}
"""
WALLET = {
    "kind": "Service",
    "metadata": {"name": "wallet", "namespace": "shop"},
    "spec": {"ports": [{"port": 81, "targetPort": 9000}]},
}
HOME = Home(Path("/home"))
MESH = {"trust_domain": "tulle.local", "access_log": "off"}


def project() -> Project:
    return load_project(Path("/p/tulle.yaml"), TEXT)


def test_the_sidecar_gets_every_field_of_the_engines_settings() -> None:
    replica = plan_replica(project(), "cart", "1", 20_001, services_in([WALLET]))
    listen = {"inbound": 1, "proxy": 2, "admin": 3, "outbound/0": 4, "outbound/1": 5}

    settings = sidecar_settings(replica, HOME, "127.0.0.1:9", {**listen, "outbound/2": 6}, MESH)

    assert settings["workload"] == {
        "namespace": "shop",
        "name": "cart-1",
        "service_account": "cart",
        "labels": {"app": "cart", "version": "v2"},
        "zone": None,
    }
    assert settings["inbound"] == [
        {
            "port": 80,
            "protocol": "http",
            "listen": "127.0.0.1:1",
            "app": "127.0.0.1:20001",
            "proxy_protocol": False,
        }
    ]
    assert settings["outbound"] == [
        {"service": "shop/redis", "port": 6379, "listen": "127.0.0.1:4"},
        {"service": "bank/ledger", "port": 7000, "listen": "127.0.0.1:5"},
        {"service": "shop/wallet", "port": 81, "listen": "127.0.0.1:6"},
    ]
    assert settings["probe"] == {"kind": "http", "port": 80, "path": "/healthz"}


def test_an_app_that_only_calls_has_nothing_inbound() -> None:
    replica = plan_replica(project(), "load", "1", None, {})

    settings = sidecar_settings(
        replica, HOME, "h:1", {"proxy": 1, "admin": 2, "outbound/0": 3}, MESH
    )

    assert (settings["inbound"], settings["probe"], replica.mesh_name) == ([], None, None)
    assert settings["workload"]["service_account"] == "load"


def test_the_program_finds_its_port_the_proxy_and_each_dependency() -> None:
    replica = plan_replica(project(), "cart", "1", 20_001, {})
    listeners = [{"listen": f"127.0.0.1:{port}"} for port in (4, 5, 6)]
    addresses = {"proxy": "127.0.0.1:2", "outbound": listeners}

    environment = app_environment(replica, addresses, {"PATH": "/bin"})

    assert environment == {
        "PATH": "/bin",
        "PORT": "20001",
        "TULLE_APP": "cart",
        "TULLE_REPLICA": "cart-1",
        "TULLE_NAMESPACE": "shop",
        "HTTP_PROXY": "http://127.0.0.1:2",
        "http_proxy": "http://127.0.0.1:2",
        "NO_PROXY": "localhost,127.0.0.1,::1",
        "no_proxy": "localhost,127.0.0.1,::1",
        "TULLE_REDIS_ADDR": "127.0.0.1:4",
        "TULLE_REDIS_URL": "http://127.0.0.1:4",
        "TULLE_LEDGER_ADDR": "127.0.0.1:5",
        "TULLE_LEDGER_URL": "http://127.0.0.1:5",
        "TULLE_WALLET_ADDR": "127.0.0.1:6",
        "TULLE_WALLET_URL": "http://127.0.0.1:6",
    }


def test_services_and_namespaces_are_made_where_the_user_wrote_none() -> None:
    written = {("shop", "cart"): (ServicePort(80, 8080),)}

    services = implied_services(project(), ["redis", "cart", "load"], written)

    assert [one["metadata"]["name"] for one in services] == ["redis"]
    assert services[0]["spec"] == {
        "selector": {"app": "redis"},
        "ports": [{"name": "tcp", "port": 6379, "targetPort": 6379, "appProtocol": "tcp"}],
    }
    assert [one["metadata"]["name"] for one in implied_namespaces(project(), [])] == ["shop"]


def test_a_service_that_the_user_wrote_decides_the_port_of_the_workload() -> None:
    written = {("shop", "cart"): (ServicePort(80, 8080),)}

    assert plan_replica(project(), "cart", "1", 20_001, written).workload_port == 8080
