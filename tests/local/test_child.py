"""Processes that are really started: their output, their end, their descendants."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tulle.errors import StartError
from tulle.local import marks
from tulle.local.child import LINE_BYTES_MAX, Child, Launch, start

RUN = f"test-{os.getpid()}"


def launch(command: str | list[str], name: str = "app") -> Launch:
    return Launch(name, command, dict(os.environ), Path("/tmp"), RUN)


def outcome(command: str | list[str]) -> tuple[int, list[str]]:
    """Run *command* to its end; return its code and its lines."""
    lines: list[str] = []

    async def body() -> int:
        return await start(launch(command), lines.append).wait()

    return asyncio.run(body()), lines


def test_both_streams_arrive_line_by_line_and_the_code_is_the_programs() -> None:
    code, lines = outcome("echo one; echo two >&2; printf three; exit 7")

    assert (code, lines) == (7, ["one", "two", "three"])


def test_a_list_of_words_needs_no_shell() -> None:
    assert outcome(["printf", "%s|", "a b", "$HOME"]) == (0, ["a b|$HOME|"])


def test_a_plain_line_runs_as_the_program_itself_with_variables_expanded() -> None:
    code, lines = outcome("sh -c 'echo $PPID $0' $HOME")

    assert (code, lines) == (0, [f"{os.getpid()} {os.environ['HOME']}"])


def test_a_line_without_end_is_cut_into_bounded_pieces() -> None:
    size = 3 * LINE_BYTES_MAX + 5
    _, lines = outcome([sys.executable, "-c", f"print('x' * {size})"])

    assert sum(map(len, lines)) == size
    assert max(map(len, lines)) <= LINE_BYTES_MAX + 64 * 1024
    assert len(lines) > 1


def test_an_end_is_told_while_a_grandchild_goes_on_writing() -> None:
    async def body() -> int:
        child = start(launch("yes & exit 7"), lambda _line: None)
        code = await asyncio.wait_for(child.wait(), 20)
        await child.stop(0)
        return code

    assert asyncio.run(body()) == 7


def test_what_cannot_be_run_is_named_with_what_to_do(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("not a program")

    with pytest.raises(StartError, match='app: command "no-such-program" not found; install it'):
        outcome(["no-such-program"])
    with pytest.raises(StartError, match=f"may not be run; make it executable: chmod .x {plain}"):
        outcome([str(plain)])


def test_a_missing_folder_is_named() -> None:
    wrong = Launch("app", ["true"], dict(os.environ), Path("/no/such"), RUN)

    with pytest.raises(StartError, match='working directory "/no/such" does not exist'):
        start(wrong, print)


STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); "
FAMILIES = [
    ("sleep 300 & sleep 300 & wait", "children of a shell"),
    ("setsid sleep 300 & setsid -f sleep 300; sleep 300", "children with sessions of their own"),
    ("env -i sleep 300 & sleep 300", "a child without our environment"),
    (f'{sys.executable} -c "{STUBBORN}time.sleep(300)"', "one that ignores SIGTERM"),
]


@pytest.mark.parametrize(("command", "what"), FAMILIES, ids=[what for _, what in FAMILIES])
def test_a_stop_leaves_no_descendant(
    command: str, what: str, eventually: Callable[[Callable[[], object], str], object]
) -> None:
    async def body() -> None:
        child = start(launch(f"echo up; {command}"), lines.append)
        await asyncio.to_thread(eventually, lambda: "up" in lines, "the program speaks")
        await child.stop(0.2)
        assert not child.running

    lines: list[str] = []
    asyncio.run(body())

    assert marks.find(f"{RUN}/") == []


def test_the_repr_is_the_state() -> None:
    async def body() -> list[str]:
        child: Child = start(launch(["sleep", "300"]), print)
        before = repr(child)
        await child.stop(5)
        return [before.replace(str(child.pid), "N"), repr(child).replace(str(child.pid), "N")]

    assert asyncio.run(body()) == ["<Child app pid N running>", "<Child app pid N exited -15>"]


def test_a_mark_is_one_start_and_a_run_is_all_of_them() -> None:
    async def body() -> None:
        first = start(launch(["sleep", "300"]), print)
        again = start(launch(["sleep", "300"]), print)
        assert marks.find(first.mark) == [first.pid]
        assert marks.find(again.mark) == [again.pid]
        assert marks.find(first.mark[:-1]) == []
        assert marks.find(f"{RUN}/") == sorted([first.pid, again.pid])
        await first.stop(5)
        assert marks.find(f"{RUN}/") == [again.pid]
        await again.stop(5)

    asyncio.run(body())
