"""How soon sockets follow addresses: the account, and the kernel's list of sockets."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from pathlib import Path

from lab.sockets import Follower, bound

ONE, TWO, SIX = map(ip_address, ("10.1.0.2", "10.1.0.77", "fd00::2"))


def test_each_change_takes_from_the_kernel_s_word_to_the_socket() -> None:
    follower = Follower({ONE})
    follower.look(9.0, {ONE})
    assert not follower.waiting
    follower.change(10.0, {ONE, TWO})
    follower.look(10.01, {ONE})
    follower.look(10.02, {ONE, TWO})
    follower.change(11.0, {TWO, SIX})
    follower.look(11.03, {TWO, SIX})
    assert not follower.waiting
    found = follower.account("right", 12.0, 10.0)
    assert (found.opened, found.dropped) == (2, 1)
    assert (found.slowest_opened_s, found.slowest_dropped_s) == (0.03, 0.03)
    assert (found.changes[0].address, found.changes[0].came, found.changes[0].at_s) == ("10.1.0.77", True, 0.0)


def test_what_is_not_followed_counts_with_the_time_it_was_waited_for() -> None:
    follower = Follower({ONE, TWO})
    follower.change(1.0, {TWO})
    follower.look(1.2, {ONE, TWO})
    follower.change(1.5, {ONE, TWO})  # it is back, and was not dropped before
    follower.look(1.5, {ONE, TWO})
    follower.change(2.0, {ONE})
    found = follower.account("left", 4.0, 0.0)
    assert (found.dropped, found.slowest_dropped_s) == (2, 2.0)
    assert sorted(each.after_s for each in found.changes) == [0.0, 0.5, 2.0]


def test_what_the_lab_was_too_busy_to_see_is_not_timed() -> None:
    follower = Follower({ONE})
    follower.change(1.0, {ONE, TWO, SIX})
    follower.look(1.5, {ONE, TWO})  # who knows when
    follower.look(1.51, {ONE, TWO, SIX})  # but this was not there a moment ago
    found = follower.account("left", 4.0, 0.0)
    assert (found.opened, found.unseen, found.slowest_opened_s) == (2, 1, 0.51)


def test_where_the_lab_saw_nothing_happen_it_took_no_longer_than_until_it_looked() -> None:
    follower = Follower({ONE})
    follower.change(1.0, {ONE, TWO})
    follower.look(1.05, {ONE, TWO})
    found = follower.account("left", 4.0, 0.0)
    assert (found.unseen, found.slowest_opened_s) == (1, 0.05)


def test_a_run_without_changes_has_no_slowest() -> None:
    found = Follower(()).account("left", 4.0, 0.0)
    assert (found.slowest_opened_s, found.slowest_dropped_s, found.changes) == (None, None, [])


def test_the_kernel_s_list_is_read() -> None:
    for family, host, table in ((socket.AF_INET, "127.0.0.1", "udp"), (socket.AF_INET6, "::1", "udp6")):
        with socket.socket(family, socket.SOCK_DGRAM) as opened:
            opened.bind((host, 0))
            place = (ip_address(host), opened.getsockname()[1])
            assert place in set(bound(Path(f"/proc/thread-self/net/{table}").read_text()))
        assert place not in set(bound(Path(f"/proc/thread-self/net/{table}").read_text()))
