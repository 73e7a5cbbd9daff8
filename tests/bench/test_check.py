"""What `make bench-check` reads from its tools, and what it calls a regression."""

import pytest

from bench.check import Counts, instructions, regressions, syscalls

BASELINE = {"plain": {"instructions": 10_000, "syscalls": 6.0}}


@pytest.mark.parametrize(
    ("now", "sentences"),
    [
        pytest.param(Counts(10_300, 6.18, {}), [], id="at-the-bound"),
        pytest.param(Counts(9_000, 5.0, {}), [], id="less"),
        pytest.param(
            Counts(10_301, 6.0, {}),
            ["plain: instructions per request grew from 10000 to 10301, +3.0%; at most +3%"],
            id="more-instructions",
        ),
        pytest.param(
            Counts(10_000, 7.0, {}),
            ["plain: syscalls per request grew from 6 to 7, +16.7%; at most +3%"],
            id="another-call",
        ),
    ],
)
def test_more_than_three_per_cent_is_a_regression(now: Counts, sentences: list[str]) -> None:
    assert regressions(BASELINE, {"plain": now}) == sentences


def test_a_case_without_a_baseline_does_not_pass() -> None:
    found = regressions(BASELINE, {"grpc": Counts(1, 1.0, {})})

    assert [sentence.partition(";")[0] for sentence in found] == [
        "grpc: instructions have no baseline",
        "grpc: syscalls have no baseline",
    ]


def test_the_sum_of_a_dump_is_found() -> None:
    assert instructions("version: 1\nevents: Ir\nsummary: 812345\n\nfn=main\n") == 812345
    with pytest.raises(LookupError):
        instructions("version: 1\nevents: Ir\n")


def test_a_call_that_another_thread_interrupts_in_the_log_counts_once() -> None:
    log = (
        "7 recvfrom(9, <unfinished ...>\n"
        "8 epoll_wait(4, [], 1024, 10) = 0\n"
        "7 <... recvfrom resumed>..., 8192, 0, NULL, NULL) = 700\n"
        "7 --- SIGTERM {si_signo=SIGTERM} ---\n"
        "7 +++ exited with 0 +++\n"
    )

    assert syscalls(log) == {"recvfrom": 1, "epoll_wait": 1}
