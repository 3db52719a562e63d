"""Hosts: what runs on one, what it sees, and that nothing outlives it."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from lab.errors import HostGoneError, LabError, NotReadyError
from lab.host import Host
from lab.process import wait_until

pytestmark = pytest.mark.netns

BUSY = "import time\nwhile time.process_time() < {seconds}: pass\nprint('done', flush=True)\ntime.sleep(100)\n"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host("middle", tmp_path / "middle")
    yield made
    made.close()


def says(process_log: Path, words: str) -> bool:
    return words in process_log.read_text()


def test_a_host_has_a_network_a_name_and_a_run_of_its_own(host: Host) -> None:
    (host.run_directory / "here").write_text("mine\n")
    script = "uname -n; cat /run/here /var/run/here; ls /sys/class/net"
    assert host.run(["sh", "-c", script]).stdout.split() == ["middle", "mine", "mine", "lo"]
    assert not Path("/run/here").exists()


def test_what_a_program_wrote_and_how_it_ended_is_told(host: Host) -> None:
    done = host.run(["sh", "-c", "cat; echo bad >&2; exit 3"], check=False, input="good")
    assert (done.stdout, done.stderr, done.returncode) == ("good", "bad\n", 3)
    with pytest.raises(LabError, match="on middle ended with 3: bad"):
        host.run(["sh", "-c", "echo bad >&2; exit 3"])


def test_a_program_that_is_not_there_is_named(host: Host) -> None:
    with pytest.raises(LabError, match="the program no-such-program is not there"):
        host.run(["no-such-program"])


def test_a_program_that_takes_too_long_is_ended(host: Host) -> None:
    with pytest.raises(LabError, match=r"sleep on middle took longer than 0\.1 s"):
        host.run(["sleep", "100"], timeout_s=0.1)
    assert "sleep" not in host.run(["ps", "-A", "-o", "comm"]).stdout


def test_a_program_is_waited_for_until_it_is_ready(host: Host, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = host.start(["sh", "-c", "echo soon; echo now; exec sleep 100"], ready=lambda: says(log, "now"), log=log)
    assert process.running
    assert process.stop() == -signal.SIGTERM
    assert not process.running


def test_one_that_ends_before_it_is_ready_is_told_with_its_last_words(host: Host) -> None:
    with pytest.raises(LabError, match=r"sh on middle ended with 4 before it was ready: first \| last"):
        host.start(["sh", "-c", "echo first; echo last; exit 4"], ready=lambda: False)


def test_one_that_is_not_ready_in_time_is_ended(host: Host) -> None:
    with pytest.raises(NotReadyError, match=r"sh on middle being ready did not happen within 0.2 s"):
        host.start(["sh", "-c", "exec sleep 100"], ready=lambda: False, ready_timeout_s=0.2)
    assert not any(process.running for process in host.processes)


def test_one_that_does_not_listen_to_sigterm_is_ended_all_the_same(host: Host, tmp_path: Path) -> None:
    log = tmp_path / "log"
    stubborn = "trap '' TERM; echo ready; while true; do sleep 100; done"
    process = host.start(["sh", "-c", stubborn], ready=lambda: says(log, "ready"), log=log)
    assert process.stop(deadline_s=0.2) == -signal.SIGKILL


def test_cpu_time_is_that_of_all_threads_and_children(host: Host, tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY.format(seconds=0.2)!r}])\n"
    process = host.start([sys.executable, "-c", child], ready=lambda: says(log, "done"), log=log)
    alive_s = process.cpu_seconds()
    assert 0.2 <= alive_s < 5
    process.stop()
    assert alive_s <= process.cpu_seconds() < 5
    assert process.cpu_seconds() == process.cpu_seconds()


def test_the_group_dies_with_its_leader(host: Host, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = host.start(["sh", "-c", "sleep 100 & echo ready; wait"], ready=lambda: says(log, "ready"), log=log)
    process.stop()
    assert "sleep" not in host.run(["ps", "-A", "-o", "comm"]).stdout


def test_sockets_live_where_they_were_made(host: Host) -> None:
    with (
        host.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside,
        host.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        inside.bind(("127.0.0.1", 7777))
        other.sendto(b"hello", ("127.0.0.1", 7777))
        inside.settimeout(5)
        assert inside.recv(100) == b"hello"
        assert "127.0.0.1:7777" in host.run(["ss", "-lun"]).stdout


def test_the_calling_thread_stays_where_it_is(host: Host) -> None:
    before = {kind: Path(f"/proc/thread-self/ns/{kind}").readlink() for kind in ("net", "mnt", "uts", "pid")}
    directory = Path.cwd()
    assert host.call(socket.gethostname) == "middle"
    assert {kind: Path(f"/proc/thread-self/ns/{kind}").readlink() for kind in before} == before
    assert Path.cwd() == directory


def test_what_is_raised_inside_is_raised_outside(host: Host) -> None:
    def fail() -> None:
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        host.call(fail)


def test_a_daemon_that_detached_itself_dies_with_the_host(tmp_path: Path) -> None:
    host = Host("middle", tmp_path / "middle")
    anchor = psutil.Process(host.anchor_pid)
    host.run(["sh", "-c", "setsid sh -c 'sleep 1000 & sleep 1000' >/dev/null 2>&1 </dev/null &"])
    wait_until(
        lambda: host.run(["ps", "-A", "-o", "comm"]).stdout.count("sleep") == 2,
        timeout_s=10,
        what="two detached programs",
    )
    inside = [process.pid for process in psutil.process_iter() if _pid_namespace(process.pid) == _inside(anchor)]
    assert len(inside) >= 4
    host.close()
    assert not any(psutil.pid_exists(pid) for pid in [*inside, anchor.pid])
    assert not (tmp_path / "middle").exists()
    host.close()


def test_a_host_that_is_gone_says_so(tmp_path: Path) -> None:
    host = Host("middle", tmp_path / "middle")
    process = host.start(["sleep", "1000"])
    host.abort()
    assert process.wait(5) == -signal.SIGKILL
    with pytest.raises(HostGoneError, match="host middle is gone"):
        wait_until(lambda: host.run(["true"]).returncode != 0, timeout_s=5, what="the end of the host")
    host.close()


def test_a_host_whose_first_process_alone_has_ended_is_gone(tmp_path: Path) -> None:
    with ExitStack() as stack:
        host = Host("middle", tmp_path / "middle")
        stack.callback(host.close)
        anchor = psutil.Process(host.anchor_pid)
        (first,) = anchor.children()
        anchor.suspend()  # or it would end as well
        stack.callback(anchor.resume)
        wait_until(lambda: anchor.status() == psutil.STATUS_STOPPED, timeout_s=5, what="the anchor to stand still")
        first.kill()
        wait_until(lambda: first.status() == psutil.STATUS_ZOMBIE, timeout_s=5, what="the end of the first process")
        with pytest.raises(HostGoneError, match="host middle is gone"):
            host.run(["true"])


def _pid_namespace(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink()
    except OSError:
        return None


def _inside(anchor: psutil.Process) -> Path:
    return Path(f"/proc/{anchor.pid}/ns/pid_for_children").readlink()
