"""Keeps one program running for a parent, and ends it when the parent is gone.

``relay.dev.process`` runs this file as a script of its own. It stands between the two because
nothing else ends a child reliably: a parent that is killed with SIGKILL runs no clean-up, and the
kernel's parent-death signal fires when the *thread* that forked ends, which in an asyncio program
is often a worker thread. The guard sees the end of its parent as the end of its standard input.

Standard library only, and nothing of this package: it runs with ``python -I -S``. Its one argument
is a JSON object:

- ``command``: what to run, in the guard's own environment (arguments can be read by everybody on
  the machine, and there may be secrets in an environment);
- ``stop``: ``[[signal, seconds], …]``, sent one after the other until the program has ended;
- ``files``: file descriptors that the program inherits;
- ``user``: null, or ``[uid, gid]`` to run as (only root can);
- ``reach``: paths that this user must be able to reach.

It writes the program's pid as one line to standard output and exits with its status, 128 + signal
when a signal ended it. The program's own output goes to the guard's standard error.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import struct
import sys
import time
from typing import NoReturn, TypedDict

_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT = 47
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_AMBIENT_RAISE = 2
_AMBIENT_CLEAR = 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2


class Plan(TypedDict):
    command: list[str]
    stop: list[tuple[int, float]]
    files: list[int]
    user: tuple[int, int] | None
    reach: list[str]


def main() -> int:
    plan: Plan = json.loads(sys.argv[1])
    # A thread that blocks signals hands that on, and the program could not be asked to stop.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # A signal for the guard means the same as the end of its parent; SIGCHLD wakes the poll below.
    wake, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    guard = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_program(plan, guard)
    os.write(sys.stdout.fileno(), b"%d\n" % pid)
    for descriptor in plan["files"]:
        os.close(descriptor)
    return _watch(pid, wake, plan["stop"])


def _watch(pid: int, wake: int, stop: list[tuple[int, float]]) -> int:
    """Wait for the program; once asked to stop, send it one signal after the other."""
    parent = sys.stdin.fileno()
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    poll.register(parent, select.POLLIN | select.POLLHUP)
    deadline: float | None = None
    while True:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = {descriptor for descriptor, _ in poll.poll(timeout)}
        asked = False
        if wake in ready:
            asked = any(number != signal.SIGCHLD for number in os.read(wake, 64))
        if parent in ready and not os.read(parent, 64):
            poll.unregister(parent)
            asked = True
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        due = asked if deadline is None else time.monotonic() >= deadline
        if due and stop:
            number, seconds = stop.pop(0)
            os.kill(pid, number)
            deadline = time.monotonic() + seconds


def _become_program(plan: Plan, guard: int) -> NoReturn:
    command = plan["command"]
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        for descriptor in plan["files"]:
            os.set_inheritable(descriptor, True)
        if plan["user"] is not None:
            _exec_as(plan["user"], guard, plan)
        _end_with(guard)
        os.execve(command[0], command, os.environ)  # noqa: S606 - no shell is wanted
    except BaseException as error:
        os.write(2, f"cannot run {command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _exec_as(user: tuple[int, int], guard: int, plan: Plan) -> NoReturn:
    """Run the command as another user, even below directories that only root may enter.

    A project below ``/root`` (mode 700) is the usual case. Opening those directories to everybody
    would be worse than letting this one process pass: first it gets no privilege at all, then only
    the right to read and search, and at last the right to ignore permissions (what Docker leaves
    to root, and what an installation with umask 077 needs).
    """
    uid, gid = user
    command = plan["command"]
    libc = ctypes.CDLL(None, use_errno=True)
    # Capabilities outlive the change of user; and access(2), by which initdb looks at its own
    # program, heeds them. What is not raised below is gone after exec.
    libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _end_with(guard)
    refused = ""
    for capability in (None, _CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        if not _hold(libc, capability):
            continue
        try:
            for path in plan["reach"]:
                os.stat(path)
            os.execve(command[0], command, os.environ)  # noqa: S606 - no shell is wanted
        except PermissionError as error:
            refused = refused or str(error)
    raise PermissionError(
        f"{refused}: the user with id {uid}, as whom it runs because it refuses to run as root, "
        "may not pass. Use a directory that everybody can enter, or run as another user than root"
    )


def _hold(libc: ctypes.CDLL, capability: int | None) -> bool:
    """Act with this one capability (or none), now and after exec; false where it is not to be had.

    The others stay permitted until exec, so that the next one can be tried.
    """
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR, 0, 0, 0)
    now = 0 if capability is None else 1 << capability
    for later in (
        (1 << _CAP_DAC_READ_SEARCH) | (1 << _CAP_DAC_OVERRIDE),
        1 << _CAP_DAC_OVERRIDE,
        0,
    ):
        if libc.capset(header, struct.pack("6I", now, now | later, now, 0, 0, 0)) == 0:
            break
    else:
        return False
    if capability is None:
        return True
    return bool(libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, capability, 0, 0) == 0)


def _end_with(guard: int) -> None:
    """Have the kernel end this process should the guard itself be killed (it has one thread)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
    if os.getppid() != guard:
        os._exit(127)


if __name__ == "__main__":
    sys.exit(main())
