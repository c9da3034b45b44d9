"""Runs a command that ends when its parent does. Knows prctl and exec; imports the standard library alone.

`python -I -S die_with_parent.py PARENT_PID COMMAND…`: a process of its own before the command, because setting this
between fork and exec of a program with threads is not safe. Linux signals the child when its parent dies, even by
SIGKILL; elsewhere the command runs without that.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h; the setting survives exec."""


def main() -> None:
    """Executes the command in this process; exits with 1 at once if the parent has already ended."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        # SIGTERM and not SIGKILL: a router still writes what it has logged.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  # the command is the supervisor's own


if __name__ == "__main__":
    main()
