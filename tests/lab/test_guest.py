"""A real guest: a stock kernel that boots, sees this machine's files, has what this kernel may lack, and goes."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import guest

ROOT = Path(__file__).resolve().parent.parent.parent
REFUSAL = guest.refusal()
# Emulation keeps all processors busy: one guest at a time.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("serial"),
    pytest.mark.skipif(REFUSAL is not None, reason=f"no guest can be started here: {REFUSAL}"),
]
LIMIT = ("--limit", "200")


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "lab", "guest", "run", *LIMIT, *(str(word) for word in words)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_guest_has_a_kernel_of_its_own_and_this_machines_files(tmp_path: Path) -> None:
    out = tmp_path / "results, of a guest"
    mark = ROOT / f"guest-was-here-{os.getpid()}"
    script = f"""
        uname -r
        pwd
        ip link add wg0 type wireguard && echo wireguard
        ip link add v0 type veth peer v1 && tc qdisc add dev v0 root netem delay 1ms && echo netem
        test -w /dev/net/tun && echo tun
        unshare --mount --net sh -c 'test -e {ROOT}/pyproject.toml' && echo namespaces
        echo $LAB_IN_GUEST >'{out}/written'
        touch '{mark}' && echo overlay
        echo complaint >&2
        exit 6
    """
    done = run("--out", out, "--", "sh", "-c", script)
    assert done.returncode == 6, done.stderr
    release, *rest = done.stdout.splitlines()
    assert release == guest.available().kernel.release
    assert rest == [str(ROOT), "wireguard", "netem", "tun", "namespaces", "overlay"]
    assert "complaint\n" in done.stderr
    assert (out / "written").read_text() == "1\n"
    assert not mark.exists()
    assert {"command", "console", "started", "status", "stderr", "stdout"} <= {
        path.name for path in (out / "guest").iterdir()
    }


def test_a_panic_is_a_failure_that_shows_the_console() -> None:
    done = run("--", "sh", "-c", "echo before; echo c >/proc/sysrq-trigger; sleep 60")
    assert done.returncode == 1
    assert done.stdout == "before\n"
    assert "Error: the guest ended without the command's exit status" in done.stderr
    assert "Kernel panic - not syncing: sysrq triggered crash" in done.stderr


def test_a_shell_is_at_a_terminal() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "lab", "guest", "shell"])
    seen = b""
    lines = [b"echo told $((6 * 7))\n", b"exit 5\n"]
    deadline = time.monotonic() + 200
    try:
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 1.0)[0]:
                continue
            try:
                piece = os.read(terminal, 4096)
            except OSError:  # the other side is gone
                break
            seen += piece
            prompts = seen.count(b"# ")
            if lines and prompts > 2 - len(lines):
                os.write(terminal, lines.pop(0))
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    assert b"told 42\n" in seen.replace(b"\r", b"")
    assert os.waitstatus_to_exitcode(status) == 5


def test_the_wireguard_drivers_agree(tmp_path: Path) -> None:
    words = ["run", "wireguard-interop", "--guest", "--json", "--results", str(tmp_path / "results")]
    done = subprocess.run([sys.executable, "-m", "lab", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    (summary,) = json.loads(done.stdout)
    if summary["verdict"] == "unavailable":
        pytest.skip(f"a tunnel is not there, not even in the guest: {summary['reason']}")
    assert summary["verdict"] == "passed", f"{summary['reason']}; {done.stderr}"
    machine = json.loads(Path(summary["result"]).read_text())["machine"]
    assert machine["virtualization"].startswith(f"Linux {machine['kernel']} in QEMU")
