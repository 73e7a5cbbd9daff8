"""The first process of a container, to which the kernel gives every process without a parent."""

import os
import signal

FORWARDED = {
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
}
SI_KERNEL = 0x80
"""Of a signal that a terminal sent, to the whole group of processes."""


def stand_behind_the_first() -> None:
    """Return at once, or, where this process is the first, in a child of it.

    The first then reaps what is left to it, passes signals on, and ends as the child ends; the
    runner would not, as it cannot tell what is left to it from what it started itself.
    """
    if os.getpid() != 1:
        return
    signals = FORWARDED | {signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        return
    while True:
        told = signal.sigwaitinfo(signals)
        if told.si_signo != signal.SIGCHLD:
            if told.si_code != SI_KERNEL:
                os.kill(child, told.si_signo)
        elif (code := _reap(child)) is not None:
            os._exit(code)


def _reap(child: int) -> int | None:
    """Reap all that has ended; return the exit code of *child*, 128 and more for a signal."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return None
        if pid == child:
            return shell_code(os.waitstatus_to_exitcode(status))


def shell_code(code: int) -> int:
    """Return what a shell would say of *code*, which is minus its number for a signal."""
    return code if code >= 0 else 128 - code
