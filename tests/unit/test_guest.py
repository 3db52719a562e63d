"""Guests, as those who start them see them, played by a QEMU that is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest

from lab.accelerator import Accelerator
from lab.guest import Guest, GuestError, console_end, in_guest, qemu_refusal
from lab.process import wait_until
from tests.unit.guests import make_kernel, make_qemu

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    kernel = make_kernel(tmp_path / "kernel")
    make_qemu(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("LAB_IN_GUEST", raising=False)
    monkeypatch.setenv("FAKE_GUEST", "whole")
    return Guest(kernel, Accelerator.TCG, processors=2)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    directory = tmp_path / "out, with a comma"
    directory.mkdir()
    return directory


def ended(pid: int) -> bool:
    """Whether a process is gone, or dead and not yet collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_the_commands_status_and_words_come_out(guest: Guest, out: Path) -> None:
    told: list[str] = []
    stdout, stderr = os.pipe(), os.pipe()
    done = guest.run(["true"], out=out, tell=told.append, stdout=stdout[1], stderr=stderr[1])
    assert done.status == 6
    assert 0 < done.boot_s <= done.seconds
    assert (os.read(stdout[0], 100), os.read(stderr[0], 100)) == (b"said\n", b"complained\n")
    for fd in (*stdout, *stderr):
        os.close(fd)
    assert [line.partition(": ")[2][:15] for line in told] == ["starting Linux ", "the command beg", "the command end"]
    assert ended(int((out / "guest" / "pid").read_text()))


def test_the_command_is_quoted_and_knows_that_it_is_in_a_guest(guest: Guest, out: Path) -> None:
    guest.run(["echo", "a b", "$HOME;"], out=out, environment={"MORE": "x y"})
    command = (out / "guest" / "command").read_text()
    assert command.endswith("echo 'a b' '$HOME;'\n")
    assert f"cd {Path.cwd()} " in command
    for setting in (
        "LAB_IN_GUEST=1",
        "LAB_SLOWNESS=10",
        "TMPDIR=/guest/tmp",
        "'MORE=x y'",
        "'LAB_GUEST=Linux 9.9-test in",
    ):
        assert setting in command
    assert "FAKE_GUEST" not in command


def test_the_hosts_files_are_shared_read_only(guest: Guest, out: Path) -> None:
    guest.run(["true"], out=out)
    arguments = (out / "guest" / "arguments").read_text().splitlines()
    shares = [word for word in arguments if word.startswith("local,")]
    assert [("path=/," in word, "readonly=on" in word) for word in shares] == [(True, True), (False, False)]
    assert "out,, with a comma" in shares[1]
    assert not any(word.startswith(("-net", "-nic")) for word in arguments)


def test_a_guest_without_a_status_has_failed_and_its_panic_is_shown(
    guest: Guest, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GUEST", "panic")
    with pytest.raises(GuestError, match="without the command's exit status") as raised:
        guest.run(["true"], out=out)
    lines = str(raised.value).splitlines()
    assert lines[1] == "  Kernel panic - not syncing: test"
    assert lines[-1] == "  line 20"
    assert "  line 1" not in lines


def test_a_guest_that_hangs_is_ended(guest: Guest, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_GUEST", "hang")
    with pytest.raises(GuestError, match=r"did not come to its end within 1\.5 s") as raised:
        guest.run(["true"], out=out, limit_s=1.5)
    assert str(raised.value).endswith("still here")
    assert ended(int((out / "guest" / "pid").read_text()))


def test_what_qemu_says_is_quoted(guest: Guest, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_GUEST", "refuse")
    with pytest.raises(GuestError, match=r"QEMU says: cannot do that$"):
        guest.run(["true"], out=out)


def test_a_guest_ends_with_the_process_that_started_it(
    guest: Guest, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GUEST", "hang")
    script = """
import sys
from pathlib import Path
from lab.accelerator import Accelerator
from lab.guest import Guest
from lab.guest_kernel import GuestKernel
import msgspec
kernel = msgspec.json.decode(sys.argv[1], type=GuestKernel)
Guest(kernel, Accelerator.TCG, processors=1).run(["true"], out=Path(sys.argv[2]))
"""
    argv = [sys.executable, "-c", script, msgspec.json.encode(guest.kernel).decode(), str(out)]
    # A killed process cannot remove its run's directory, so that goes with a place of its own; not pytest's, whose path
    # may be too long for sockets.
    with (
        tempfile.TemporaryDirectory(prefix="cpd-") as temporary,
        subprocess.Popen(argv, cwd=ROOT, env={**os.environ, "TMPDIR": temporary}) as starter,
    ):
        wait_until((out / "guest" / "started").exists, timeout_s=30.0, what="the start of a guest")
        pid = int((out / "guest" / "pid").read_text())
        assert not ended(pid)
        starter.send_signal(signal.SIGKILL)
    wait_until(lambda: ended(pid), timeout_s=30.0, what="the end of a guest")


def test_results_want_a_directory_of_their_own(guest: Guest, out: Path) -> None:
    guest.run(["true"], out=out)
    with pytest.raises(GuestError, match="is there already"):
        guest.run(["true"], out=out)


def test_a_guest_has_no_guests(guest: Guest, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_IN_GUEST", "1")
    monkeypatch.setenv("LAB_GUEST", "Linux somewhere")
    assert in_guest() == "Linux somewhere"
    with pytest.raises(GuestError, match="a guest already"):
        guest.run(["true"], out=out)


def test_without_qemu_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_IN_GUEST", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install --no-install-recommends qemu-system-x86" in (qemu_refusal() or "")


def test_a_console_is_shown_without_its_escapes(tmp_path: Path) -> None:
    console = tmp_path / "console"
    assert console_end(console) == ""
    console.write_bytes(b"\r\n")
    assert console_end(console) == "; its console is empty"
    console.write_bytes(b"\x1b[2J\x1b[mhello\r\n\xff\n")
    assert console_end(console) == "; the end of its console:\n  hello\n  \N{REPLACEMENT CHARACTER}"
