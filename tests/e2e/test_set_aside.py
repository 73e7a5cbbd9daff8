"""A store that an earlier version has written, with what the rules of this one refuse."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.http_client import get
from tests.e2e.processes import eventually
from tests.e2e.security_support import EchoApp, Mesh, Port, running_mesh, shop_with

pytestmark = pytest.mark.e2e

WRITTEN = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: cart}]
  rules:
  - matches: [{path: {value: /old}}]
    filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /new}}
    backendRefs: [{name: cart, port: 80}]
  - backendRefs: [{name: cart, port: 80}]
---
apiVersion: tulle.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: shop}
spec:
  action: DENY
  rules: [{to: [{operation: {methods: [DELETE], paths: [/secret]}}]}]
"""


def restart(mesh: Mesh) -> None:
    """End the control plane, put an earlier version's objects into its store, and start it."""
    mesh.server.kill()
    with closing(sqlite3.connect(mesh.home / "mesh.db")) as store, store:
        for kind, old, new in (
            ("HTTPRoute", '"/new"', '"/n ew"'),
            ("AuthorizationPolicy", '"DELETE"', '"delete"'),
        ):
            store.execute(
                "UPDATE resources SET object = replace(object, ?, ?) WHERE kind = ?",
                (old, new, kind),
            )
    mesh.start_server()
    mesh.settle()


def shown(mesh: Mesh, name: str) -> dict[str, Any]:
    """What `tulle get` shows of an object, once it says that it is not accepted."""

    def found() -> dict[str, Any]:
        answer = mesh.tulle("get", name, "-n", "shop", "-o", "json").stdout
        return json.loads(answer) if '"UnsupportedValue"' in answer or "Invalid" in answer else {}

    return eventually(found, f"{name} is not accepted")


def test_what_is_refused_now_is_set_aside_and_closes(tmp_path: Path) -> None:
    with EchoApp() as app, running_mesh(tmp_path) as mesh:
        mesh.apply(shop_with(80) + WRITTEN)
        mesh.add("shop/cart-1", Port(8080, "http", app.address))
        web = mesh.add("shop/web-1", calls={"shop/cart": [80]})
        mesh.settle()
        assert get(web.outbound(), "/old").status == 200
        assert app.paths() == ["/new"]

        restart(mesh)

        # The rule that is wrong answers 500; the policy denies whatever it may have meant.
        eventually(lambda: get(web.outbound(), "/old").status == 500, "the rule refuses")
        eventually(lambda: get(web.outbound(), "/secret").status == 403, "the policy denies")
        assert get(web.outbound(), "/other").status == 403

        log = mesh.server.output
        for place in (
            r"HTTPRoute shop/cart: spec\.rules\[0\]\.filters\[0\]\.urlRewrite",
            r"AuthorizationPolicy shop/guard: spec\.rules\[0\]\.to\[0\]\.operation\.methods\[0\]",
        ):
            assert re.search(rf"mesh\.db: set aside.* {place}", log), log
        route = shown(mesh, "httproute/cart")
        assert route["spec"]["rules"][0]["filters"][0]["urlRewrite"]["path"]["replaceFullPath"] == (
            "/n ew"
        )
        checked = mesh.tulle("check")
        assert checked.returncode == 1
        assert "HTTPRoute shop/cart is applied" in checked.stdout
        assert "AuthorizationPolicy shop/guard is applied" in checked.stdout
        assert mesh.tulle("get", "httproute", "-n", "shop").returncode == 0
        assert mesh.tulle("describe", "ap", "guard", "-n", "shop").returncode == 0

        mesh.apply(WRITTEN.partition("---")[0])
        mesh.delete("AuthorizationPolicy", "guard")
        mesh.settle()

        app.seen.clear()
        assert get(web.outbound(), "/old").status == 200
        assert app.paths() == ["/new"]
        assert "is applied" not in mesh.tulle("check").stdout


def test_all_that_cannot_be_read_is_named_and_the_start_refused(tmp_path: Path) -> None:
    with running_mesh(tmp_path) as mesh:
        mesh.apply(shop_with(80) + WRITTEN)
        mesh.server.kill()
        with closing(sqlite3.connect(mesh.home / "mesh.db")) as store, store:
            store.execute("UPDATE resources SET object = '{' WHERE namespace = 'shop'")

        refused = mesh.tulle("server", "--data-dir", str(mesh.home), "--hub", mesh.hub)

        assert refused.returncode == 1
        for name in ("HTTPRoute shop/cart", "AuthorizationPolicy shop/guard", "Service shop/cart"):
            assert f"mesh.db: {name} is damaged: Expecting" in refused.stderr
