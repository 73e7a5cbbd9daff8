"""Finding the control plane, and what a caller is told when it does not answer well."""

import socket
import threading

import pytest

from tulle.cli.client import find_server
from tulle.cli.exits import CommandError, ExitCode
from tulle.cli.home import home_of
from tulle.local import project


def hang_up(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    connection.close()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/tulle/api.sock", "unix:/run/tulle/api.sock"),
        ("unix:///run/tulle/api.sock", "unix:/run/tulle/api.sock"),
        ("/run/tulle/api.sock", "unix:/run/tulle/api.sock"),
        ("./api.sock", "unix:api.sock"),
        ("http://127.0.0.1:7600", "http://127.0.0.1:7600"),
        ("localhost:7600", "http://localhost:7600"),
        ("http://[::1]:7600", "http://::1:7600"),
    ],
)
def test_addresses(text, address):
    assert find_server(text).address == address


@pytest.mark.parametrize("text", ["https://x:1", "localhost", "http://:1", "x:99999", "ftp://x:1"])
def test_what_is_no_address_is_a_usage_error(text):
    with pytest.raises(CommandError, match="is not the address of a control plane") as error:
        find_server(text)
    assert error.value.code == ExitCode.USAGE


def test_the_socket_is_found_from_a_folder_below(tulle, plane, folder, monkeypatch):
    below = folder / "src" / "deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert tulle("edges", "-o", "json").json["items"] == []


def test_the_server_file_says_where_the_socket_is(folder):
    data = folder / ".tulle"
    data.mkdir()
    (data / "server.json").write_text('{"socket": "/run/elsewhere.sock"}')
    assert find_server(None).address == "unix:/run/elsewhere.sock"


def test_a_path_longer_than_a_socket_address_works(tulle, plane, folder):
    deep = folder
    for _ in range(3):
        deep = deep / ("x" * 60)
        deep.mkdir()
    (folder / ".tulle" / "api.sock").rename(deep / "api.sock")
    assert tulle("edges", "-o", "json", "--server", f"unix:{deep}/api.sock").code == 0


def test_without_a_mesh_the_way_to_one_is_told(tulle, folder):
    result = tulle("edges")
    assert result.code == ExitCode.UNREACHABLE
    assert result.err.splitlines() == [
        "error: no mesh runs here",
        f"  --> there is no folder {folder}/.tulle",
        'hint: start one with "tulle demo" or "tulle up", or name a control plane with --server',
    ]


def test_a_dead_socket_is_named_with_where_it_came_from(tulle, folder):
    (folder / ".tulle").mkdir()
    result = tulle("edges")
    assert result.code == ExitCode.UNREACHABLE
    assert "cannot reach the control plane: no such file or directory" in result.err
    assert f"unix:{folder}/.tulle/api.sock (from the folder {folder}/.tulle)" in result.err


def test_a_silent_server_times_out(tulle, folder):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "silent.sock"))
        listener.listen()
        result = tulle("edges", "--server", f"unix:{folder}/silent.sock", "--timeout", "50ms")
    assert result.code == ExitCode.TIMED_OUT
    assert "timed out after 0.05s" in result.err


def test_a_server_that_hangs_up_is_unreachable(tulle, folder):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "rude.sock"))
        listener.listen()
        hangs_up = threading.Thread(target=hang_up, args=(listener,))
        hangs_up.start()
        result = tulle("edges", "--server", f"unix:{folder}/rude.sock")
        hangs_up.join()
    assert result.code == ExitCode.UNREACHABLE
    assert "cannot reach the control plane: " in result.err


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, ExitCode.REJECTED),
        (401, ExitCode.FORBIDDEN),
        (403, ExitCode.FORBIDDEN),
        (404, ExitCode.NOT_FOUND),
        (409, ExitCode.CONFLICT),
        (410, ExitCode.CONFLICT),
        (413, ExitCode.REJECTED),
        (500, ExitCode.NO),
        (503, ExitCode.UNREACHABLE),
        (504, ExitCode.TIMED_OUT),
    ],
)
def test_each_refusal_has_its_exit_code(tulle, plane, status, code):
    plane.refuse = (status, {"kind": "Status", "message": "the reason", "code": status})
    result = tulle("edges")
    assert result.code == code
    assert result.err.splitlines()[0] == "error: the reason"
    assert "GET /tulle/v1/edges" in result.err


def test_an_error_page_that_is_not_json_is_told_by_its_status(tulle, plane):
    plane.refuse = (502, "<html>")
    assert "the server answered 502" in tulle("edges").err


def test_the_token_goes_to_tcp_servers_only(tulle, plane, monkeypatch):
    monkeypatch.setenv("TULLE_TOKEN", "secret")
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{"edges":[]}')

        thread = threading.Thread(target=answer)
        thread.start()
        port = listener.getsockname()[1]
        assert tulle("edges", "-o", "json", "--server", f"http://127.0.0.1:{port}").code == 0
        thread.join()
    assert b"Authorization: Bearer secret" in seen[0]


@pytest.mark.parametrize("layout", ["nothing", "project", "data", "both", "environment"])
def test_the_home_is_that_of_the_local_runner(folder, monkeypatch, layout):
    start = folder / "a" / "b"
    start.mkdir(parents=True)
    if layout in {"project", "both"}:
        (folder / "a" / "tulle.yaml").touch()
    if layout in {"data", "both"}:
        (folder / ".tulle").mkdir()
    if layout == "environment":
        monkeypatch.setenv("TULLE_HOME", str(folder / "elsewhere"))
    assert home_of(start) == project.home_of(start)


def test_another_kind_of_server_is_told_as_that(tulle, plane):
    plane.refuse = (200, "<html>")
    result = tulle("edges")
    assert result.code == ExitCode.UNREACHABLE
    assert "what answers is not a control plane" in result.err
