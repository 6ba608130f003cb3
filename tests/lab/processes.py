"""Processes that cannot outlive the run: each in its own group, with a guard that kills them if all else fails."""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Reads `+pid` and `-pid` lines; at the end of the pipe (whatever killed its parent) it kills the groups still listed
# and removes the folder given to it, after PostgreSQL's processes have seen that their parent is gone.
GUARD = """
import os, shutil, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
if groups:
    time.sleep(0.5)
    shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class ProcessFailed(RuntimeError):
    """A process ended or stayed silent when it was needed; carries the end of its log."""


class ProcessGroup:
    """A set of child processes with one log file each, in a scratch folder that belongs to them.

    Leaving the context, the interpreter's exit and the death of this process by any signal all end every child.
    """

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._guard = subprocess.Popen(
            [sys.executable, "-S", "-c", GUARD, str(log_folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            text=True,
            bufsize=1,
        )
        atexit.register(self.close)

    def start(
        self, name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None, user: str | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a child in its own session, its output in `<name>.log`; `user` needs root."""
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                list(command),
                env=None if env is None else dict(env),
                user=user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._tell_guard(f"+{child.pid}")
        with self._lock:
            self._children[name] = child
        return child

    def log(self, name: str) -> Path:
        """Name the file that holds a child's output."""
        return self._log_folder / f"{name}.log"

    def log_tail(self, name: str) -> str:
        """Return the last 2,000 characters that a child wrote."""
        with contextlib.suppress(FileNotFoundError):
            return self.log(name).read_text(errors="replace")[-2000:]
        return ""

    def wait_until(self, name: str, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until the probe says so. Raises ProcessFailed when the child ends or the time is over."""
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if self._children[name].poll() is not None:
                raise ProcessFailed(f"{name} ended at start:\n{self.log_tail(name)}")
            if time.monotonic() > deadline:
                raise ProcessFailed(f"{name} was not ready within {timeout_s:.0f} s:\n{self.log_tail(name)}")
            time.sleep(0.02)

    def stop(self, names: Sequence[str], signal_number: int, timeout_s: float) -> list[str]:
        """Signal the children together, wait for them, kill what is left; return the names that had to be killed."""
        with self._lock:
            children = [(name, self._children.pop(name)) for name in names if name in self._children]
        for _, child in children:
            if child.poll() is None:
                child.send_signal(signal_number)
        deadline = time.monotonic() + timeout_s
        killed = []
        for name, child in children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                killed.append(name)
            # Also after a clean end: grandchildren share the group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            with contextlib.suppress(BrokenPipeError):
                self._tell_guard(f"-{child.pid}")
        return killed

    def close(self) -> None:
        """Kill whatever still runs and end the guard; a second call does nothing."""
        atexit.unregister(self.close)
        self.stop(list(self._children), signal.SIGKILL, timeout_s=5)
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            self._guard.stdin.close()
        self._guard.wait()

    def pids(self) -> dict[str, int]:
        """Return the process id of each child that was started and not yet stopped."""
        with self._lock:
            return {name: child.pid for name, child in self._children.items()}

    def _tell_guard(self, line: str) -> None:
        if self._guard.stdin is not None:
            self._guard.stdin.write(line + "\n")
            self._guard.stdin.flush()
