"""A stand-in for ``systemctl`` where no systemd runs: it starts what a unit says and watches it.

Reads units from ``$XDG_CONFIG_HOME/systemd/user`` and keeps process numbers beside them.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

UNITS = Path(os.environ["XDG_CONFIG_HOME"], "systemd", "user")


def main() -> int:
    words = [word for word in sys.argv[1:] if word != "--user"]
    with (UNITS.parent / "calls.log").open("a") as log:
        log.write(" ".join(words) + "\n")
    verb, unit = words[0], words[-1]
    if verb in {"daemon-reload", "enable"}:
        return 0
    pid_file = UNITS.parent / f"{unit}.pid"
    if verb == "show":
        pid = int(pid_file.read_text()) if pid_file.is_file() else 0
        print(f"ActiveState={'active' if pid and alive(pid) else 'failed'}\nMainPID={pid}")
        return 0
    if pid_file.is_file():
        stop(int(pid_file.read_text()))
        pid_file.unlink()
    if verb == "restart":
        line = next(s for s in (UNITS / unit).read_text().splitlines() if s.startswith("ExecStart"))
        command = shlex.split(line.partition("=")[2].replace("%%", "%").replace("$$", "$"))
        with (UNITS.parent / f"{unit}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        pid_file.write_text(str(process.pid))
    return 0


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def stop(pid: int) -> None:
    for name in (signal.SIGTERM, signal.SIGKILL):
        if alive(pid):
            os.kill(pid, name)
            time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
