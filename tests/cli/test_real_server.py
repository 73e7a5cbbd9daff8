"""The same commands against a real control plane, started by the command line."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tulle.cli.exits import ExitCode

pytestmark = pytest.mark.e2e

SHOP = """\
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec:
  selector: {app: catalog}
  ports: [{port: 80, name: http}]
"""


@contextmanager
def serving(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `tulle server` on *folder*/.tulle, from when it serves until the end."""
    command = [sys.executable, "-m", "tulle", "server", "--hub", "127.0.0.1:0"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "serving" in line:
                break
        else:
            pytest.fail(f"the server did not come up: {''.join(said)}")
        yield process
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.returncode == ExitCode.OK


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Serve one mesh for all tests and return its data folder."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder):
        yield folder / ".tulle"


@pytest.fixture
def server(data, tulle, folder, monkeypatch) -> Iterator[Path]:
    """Be a client of the mesh, and leave it empty."""
    monkeypatch.setenv("TULLE_SERVER", f"unix:{data}/api.sock")
    yield data
    names = tulle("get", "all", "-A", "-o", "name").lines
    if names:
        assert tulle("delete", "--yes", *names).code == ExitCode.OK
    for token in tulle("token", "list", "-o", "name").lines:
        assert tulle("token", "revoke", token).code == ExitCode.OK


@pytest.fixture
def shop(server, tulle, folder: Path) -> Path:
    """Apply the shop's file and return its path."""
    file = folder / "shop.yaml"
    file.write_text(SHOP)
    assert tulle("apply", "-f", "shop.yaml").lines == ["service/shop/catalog created"]
    return file


def test_apply_again_changes_nothing_and_diff_agrees(tulle, shop):
    assert tulle("apply", "-f", "shop.yaml", "--exit-code").code == ExitCode.OK
    assert tulle("diff", "-f", "shop.yaml").code == ExitCode.OK
    shop.write_text(SHOP.replace("80", "81"))
    changed = tulle("diff", "-f", "shop.yaml")
    assert changed.code == ExitCode.NO
    assert "+    port: 81" in changed.lines


def test_get_and_describe_show_where_it_was_written(tulle, shop):
    assert tulle("get", "svc", "-A", "-o", "name").lines == ["service/shop/catalog"]
    assert "shop.yaml:1" in tulle("get", "svc", "-A", "-o", "wide").out
    assert "shop.yaml:1" in tulle("describe", "svc", "shop/catalog").out


def test_what_the_server_refuses_changes_nothing(tulle, shop, folder):
    stale = tulle("get", "service/shop/catalog", "-o", "json").json
    shop.write_text(SHOP.replace("80", "81"))
    tulle("apply", "-f", "shop.yaml")
    stale["spec"]["ports"][0]["port"] = 82
    (folder / "stale.json").write_text(json.dumps(stale))
    result = tulle("apply", "-f", "stale.json")
    assert result.code == ExitCode.CONFLICT
    now = tulle("get", "service/shop/catalog", "-o", "json").json
    assert now["spec"]["ports"][0]["port"] == 81


def test_split_makes_and_edits_a_route(tulle, shop):
    assert tulle("split", "shop/catalog", "v1=90", "v2=10").code == ExitCode.REJECTED
    first = tulle("split", "shop/catalog", "v1=90", "v2=10", "--force")
    assert (first.code, first.lines[0]) == (ExitCode.OK, "--- /dev/null")
    second = tulle("split", "shop/catalog", "v1=50", "v2=50", "--force")
    assert second.code == ExitCode.OK, second.err
    assert "+      weight: 50" in second.lines
    assert "catalog.v1=50,catalog.v2=50" in tulle("get", "routes", "-A").out


def test_delete(tulle, shop):
    assert tulle("delete", "-f", "shop.yaml", "--yes").lines == ["service/shop/catalog deleted"]
    again = tulle("delete", "service", "shop/catalog", "--yes")
    assert again.code == ExitCode.NOT_FOUND


def test_tokens_are_made_and_revoked(tulle, server):
    made = tulle("token", "create", "--service-account", "cart", "-o", "json").json
    assert tulle("token", "list", "-o", "name").lines == [made["id"]]
    assert tulle("token", "revoke", made["id"]).code == ExitCode.OK
    assert tulle("token", "list", "-o", "name").lines == []


def test_views_of_a_mesh_without_sidecars(tulle, server):
    for command in (("stat",), ("edges",), ("proxy", "list"), ("stat", "routes")):
        result = tulle(*command)
        assert (result.code, result.out) == (ExitCode.OK, "")
        assert "hint: " in result.err


def test_check_passes_and_warns_of_a_service_without_endpoints(tulle, shop):
    result = tulle("check")
    assert result.code == ExitCode.OK
    assert "service/shop/catalog has a ready endpoint" in result.out
    assert result.lines[-1].endswith("1 warning, 0 failed")


def test_resolve_needs_a_connected_caller(tulle, shop):
    result = tulle("resolve", "shop/catalog", "shop/catalog")
    assert result.code == ExitCode.NOT_FOUND
    assert "tulle proxy list" in result.err


def test_version_knows_the_server(tulle, server):
    facts = tulle("version", "-o", "json").json
    assert facts["server"] == facts["client"]


def test_a_second_server_on_the_same_folder_is_refused(data):
    second = subprocess.run(
        [sys.executable, "-m", "tulle", "server", "--hub", "127.0.0.1:0", "--data-dir", str(data)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert second.returncode == ExitCode.NO
    assert second.stderr.startswith("error: ")
    assert "Traceback" not in second.stderr


def test_watch_prints_a_change_when_it_happens_and_ends_by_ctrl_c(tulle, shop, folder):
    command = [sys.executable, "-m", "tulle", "get", "services", "-A", "-w", "-o", "name"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline() == "service/shop/catalog\n"
        shop.write_text(SHOP.replace("catalog", "cart"))
        tulle("apply", "-f", "shop.yaml")
        assert watch.stdout.readline() == "service/shop/cart\n"
        watch.send_signal(signal.SIGINT)
        assert watch.stdout.read() == ""
    assert watch.returncode == ExitCode.INTERRUPTED


def test_tap_waits_and_ends_by_ctrl_c(server, folder):
    command = [sys.executable, "-m", "tulle", "tap"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as tap:
        assert tap.stderr is not None
        assert tap.stderr.readline() == "waiting for requests; Ctrl-C ends\n"
        tap.send_signal(signal.SIGINT)
        out, err = tap.communicate()
    assert (tap.returncode, out, err) == (ExitCode.INTERRUPTED, "", "")


def test_a_server_that_stops_ends_the_watch_with_a_reason(folder):
    command = [sys.executable, "-m", "tulle", "get", "namespaces", "-w", "--timeout", "30s"]
    with (
        serving(folder) as server,
        subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as watch,
    ):
        server.send_signal(signal.SIGTERM)
        _, err = watch.communicate(timeout=30)
        server.wait(30)
    assert watch.returncode == ExitCode.UNREACHABLE
    assert err.startswith("error: ")
