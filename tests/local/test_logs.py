"""Logs: bounded on disk, in the order of time, followed across their rotation."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tulle.errors import NotFound
from tulle.local.logs import app_of, read_logs
from tulle.local.output import LogFile


@pytest.fixture
def home(tmp_path: Path) -> Path:
    logs = tmp_path / "logs"
    logs.mkdir()
    write(logs, "web-1", "10:00:01", "first")
    write(logs, "cart-1", "10:00:02", "second")
    write(logs, "cart-2", "10:00:03", "third")
    write(logs, "cart-1", "10:00:04", "fourth")
    write(logs, "cart-1.sidecar", "10:00:05", "beside")
    return tmp_path


def write(logs: Path, process: str, at: str, text: str) -> None:
    with (logs / f"{process}.log").open("a") as file:
        file.write(f"2025-11-23T{at}.000Z {text}\n")


CHOICES: list[tuple[list[str], str]] = [
    ([], "first second third fourth"),
    (["cart"], "second third fourth"),
    (["cart-2", "web"], "first third"),
    (["cart-1.sidecar"], "beside"),
]


@pytest.mark.parametrize(("names", "expected"), CHOICES)
def test_lines_of_the_chosen_come_in_the_order_of_time(
    home: Path, names: list[str], expected: str
) -> None:
    assert " ".join(line.text for line in read_logs(home, names)) == expected


def test_a_tail_counts_over_all(home: Path) -> None:
    assert [line.text for line in read_logs(home, tail=2)] == ["third", "fourth"]


def test_old_lines_are_left_out(home: Path) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    with (home / "logs" / "web-1.log").open("a") as file:
        file.write(f"{now} fresh\n")

    assert [line.text for line in read_logs(home, since_s=60)] == ["fresh"]


def test_an_unknown_name_is_refused_with_the_known_ones(home: Path) -> None:
    with pytest.raises(NotFound, match='no log of "crat"; one of cart, web'):
        list(read_logs(home, ["crat"]))


def test_following_goes_on_across_a_rotation(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log = LogFile(tmp_path / "logs" / "web-1.log", bytes_max=200)
    log.write("before")
    lines = read_logs(tmp_path, follow=True)
    assert next(lines).text == "before"
    for number in range(5):
        log.write(f"line {number}")
        assert next(lines).text == f"line {number}"
    log.write("x" * 150)
    assert next(lines).text == "x" * 150
    log.close()


def test_a_log_never_holds_more_than_twice_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "web-1.log"
    log = LogFile(path, bytes_max=1000)
    for number in range(500):
        log.write(f"line {number}")
    log.close()

    kept = [path, path.with_name("web-1.log.1")]
    assert all(file.stat().st_size <= 1000 for file in kept)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert list(log.tail)[-1] == "line 499"


@pytest.mark.parametrize(
    ("process", "app"),
    [("cart-1", "cart"), ("cart-1.sidecar", "cart"), ("a-b-12", "a-b"), ("control-plane",) * 2],
)
def test_the_app_of_a_process(process: str, app: str) -> None:
    assert app_of(process) == app


def test_a_home_without_logs_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()

    assert list(read_logs(tmp_path)) == []
