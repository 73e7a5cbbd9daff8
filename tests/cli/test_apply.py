"""apply, diff and validate: files in, every mistake out, nothing done by halves."""

import io
import json

import pytest

from tulle.cli.exits import ExitCode

GOOD = """\
apiVersion: v1
kind: Service
metadata:
  name: cart
spec:
  ports:
  - port: 80
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: cart
spec:
  parentRefs:
  - {group: "", kind: Service, name: cart}
  rules:
  - backendRefs:
    - {name: cart, port: 80}
"""
BAD = """\
apiVersion: v1
kind: Service
metadata:
  name: cart
spec:
  ports:
  - port: 80000
  selectr: {}
"""


@pytest.fixture
def files(folder):
    shop = folder / "shop"
    (shop / "deep").mkdir(parents=True)
    (shop / "cart.yaml").write_text(GOOD)
    (shop / "deep" / "web.json").write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "web", "namespace": "front"},
                "spec": {"ports": [{"port": 80}]},
            }
        )
    )
    (shop / "notes.txt").write_text("not a manifest")
    return shop


def test_apply_creates_then_changes_then_leaves_alone(tulle, plane, files):
    first = tulle("apply", "-f", "shop", "-n", "shop")
    assert first.code == ExitCode.OK
    assert first.lines == [
        "service/shop/cart created",
        "httproute/shop/cart created",
        "service/front/web created",
    ]
    assert first.err == "revision 3\n"
    (files / "cart.yaml").write_text(GOOD.replace("port: 80\n---", "port: 81\n---"))
    assert tulle("apply", "-f", "shop", "-n", "shop").lines == [
        "service/shop/cart configured",
        "httproute/shop/cart unchanged",
        "service/front/web unchanged",
    ]


def test_apply_notes_file_and_lines(tulle, plane, files):
    tulle("apply", "-f", "shop/cart.yaml", "-n", "shop")
    annotations = plane.objects["HTTPRoute", "shop", "cart"]["metadata"]["annotations"]
    source = json.loads(annotations["tulle.dev/source"])
    assert source == {"file": "shop/cart.yaml", "lines": {"": 9, "spec.rules[0]": 17}}


def test_apply_reads_stdin(tulle, plane, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(GOOD))
    assert tulle("apply", "-f", "-", "-o", "name").lines == [
        "service/default/cart",
        "httproute/default/cart",
    ]


def test_dry_run_changes_nothing(tulle, plane, files):
    result = tulle("apply", "-f", "shop", "--dry-run")
    assert result.lines[0] == "service/default/cart created (dry run)"
    assert plane.objects == {}


def test_exit_code_tells_whether_anything_changed(tulle, plane, files):
    assert tulle("apply", "-f", "shop", "--exit-code").code == ExitCode.NO
    assert tulle("apply", "-f", "shop", "--exit-code").code == ExitCode.OK


def test_apply_as_json_is_the_servers_answer(tulle, plane, files):
    answer = tulle("apply", "-f", "shop/cart.yaml", "-o", "json").json
    assert answer["revision"] == 2
    assert answer["results"][0] == {
        "kind": "Service",
        "namespace": "default",
        "name": "cart",
        "action": "created",
    }


@pytest.mark.parametrize("command", ["apply", "diff", "validate"])
def test_every_mistake_of_every_file_is_told_and_nothing_is_sent(tulle, plane, files, command):
    (files / "bad.yaml").write_text(BAD)
    (files / "worse.yaml").write_text("kind: [")
    result = tulle(command, "-f", "shop")
    assert result.code == ExitCode.REJECTED
    lines = result.err.splitlines()
    assert lines[0] == "error: 3 violations; nothing was changed"
    assert lines[1].startswith(
        "shop/bad.yaml:7:11: Service default/cart: spec.ports[0].port: 80000"
    )
    assert lines[2].startswith(
        "shop/bad.yaml:8:3: Service default/cart: spec.selectr: unknown key; did you"
    )
    assert lines[3].startswith("shop/worse.yaml:2:1: ")
    assert plane.asked == []


@pytest.mark.parametrize("command", ["apply", "diff"])
def test_what_the_server_refuses_is_told_with_its_line(tulle, plane, files, command):
    plane.violations = [
        {
            "resource": "HTTPRoute default/cart",
            "path": "spec.rules[0].backendRefs[0].port",
            "message": "80 is not welcome",
            "allowed": "81",
            "line": None,
            "column": None,
        }
    ]
    result = tulle(command, "-f", "shop")
    assert result.code == ExitCode.REJECTED
    assert "shop/cart.yaml:18:" in result.err
    assert "spec.rules[0].backendRefs[0].port: 80 is not welcome; 81" in result.err


@pytest.mark.parametrize(
    ("path", "message"),
    [("nowhere.yaml", "no such file or directory"), ("empty", "holds no manifest")],
)
def test_a_path_without_manifests_is_a_usage_error(tulle, plane, folder, path, message):
    (folder / "empty").mkdir()
    result = tulle("apply", "-f", path)
    assert result.code == ExitCode.USAGE
    assert message in result.err


def test_bytes_that_are_no_text_are_refused(tulle, folder):
    (folder / "image.yaml").write_bytes(b"\xff\xfe\x00")
    result = tulle("validate", "-f", "image.yaml")
    assert result.code == ExitCode.REJECTED
    assert '"image.yaml" is not UTF-8 text' in result.err


def test_diff_shows_what_apply_would_change(tulle, plane, files):
    tulle("apply", "-f", "shop")
    assert tulle("diff", "-f", "shop").code == ExitCode.OK
    (files / "cart.yaml").write_text(GOOD.replace("- port: 80", "- port: 81"))
    changed = tulle("diff", "-f", "shop")
    assert changed.code == ExitCode.NO
    assert changed.lines[:2] == [
        "--- service/default/cart (now)",
        "+++ service/default/cart (then)",
    ]
    assert "-  - port: 80" in changed.lines
    assert "+  - port: 81" in changed.lines
    assert "resourceVersion" not in changed.out
    assert "tulle.dev/source" not in changed.out


def test_diff_of_what_is_new_is_all_plus(tulle, plane, files):
    result = tulle("diff", "-f", "shop/deep")
    assert result.code == ExitCode.NO
    assert result.lines[0] == "--- /dev/null"
    assert all(line.startswith("+") for line in result.lines[3:])


def test_validate_needs_no_server(tulle, files):
    result = tulle("validate", "-f", "shop/cart.yaml")
    assert (result.code, result.out) == (ExitCode.OK, "")
    assert result.err == "2 resources valid, 0 warnings\n"


def test_validate_warns_of_references_to_nothing(tulle, files):
    (files / "cart.yaml").write_text(
        GOOD.replace("{name: cart, port: 80}", "{name: crat, port: 80}")
    )
    result = tulle("validate", "-f", "shop/cart.yaml")
    assert result.code == ExitCode.OK
    assert "warning: shop/cart.yaml:18:7: HTTPRoute default/cart" in result.err
    assert "there is no Service default/crat" in result.err
    assert tulle("validate", "-f", "shop/cart.yaml", "--strict").code == ExitCode.NO


def test_validate_live_looks_into_the_mesh(tulle, plane, files):
    plane.put("Service", "crat", {"ports": [{"port": 80}]})
    (files / "cart.yaml").write_text(
        GOOD.replace("{name: cart, port: 80}", "{name: crat, port: 80}")
    )
    assert tulle("validate", "-f", "shop/cart.yaml", "--live", "--strict").code == ExitCode.OK


def test_validate_as_json_has_violations_with_places(tulle, folder):
    (folder / "bad.yaml").write_text(BAD)
    result = tulle("validate", "-f", "bad.yaml", "-o", "json")
    assert result.code == ExitCode.REJECTED
    assert result.json["valid"] is False
    first = result.json["violations"][0]
    assert (first["file"], first["line"], first["column"]) == ("bad.yaml", 7, 11)
