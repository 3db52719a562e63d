"""Topologies: that what is built is what was planned, changes as told, and is taken down whatever happens."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.impairment import Backend, Change, Impairment
from lab.link import EndPlan, LinkPlan
from lab.offloads import OFFLOADS, features
from lab.process import wait_until
from lab.topology import HostPlan, Plan, RoutePlan, Step, Topology

pytestmark = pytest.mark.netns


def end(host: str, *addresses: str, sends: Impairment | None = None) -> EndPlan:
    return EndPlan(host, tuple(ip_interface(address) for address in addresses), sends or Impairment())


ROUTED = Plan(
    hosts=(HostPlan("a"), HostPlan("s", "switch"), HostPlan("r", "router"), HostPlan("b"), HostPlan("c")),
    links=(
        LinkPlan("a-s", (end("a", "10.1.0.1/24", "fd01::1/64"), end("s"))),
        LinkPlan("c-s", (end("c", "10.1.0.3/24", "fd01::3/64"), end("s"))),
        LinkPlan("r-s", (end("r", "10.1.0.2/24", "fd01::2/64"), end("s"))),
        LinkPlan("r-b", (end("r", "10.2.0.1/24", "fd02::1/64"), end("b", "10.2.0.2/24", "fd02::2/64"))),
    ),
    routes=(
        RoutePlan("a", ip_network("10.2.0.0/24"), ip_address("10.1.0.2")),
        RoutePlan("a", ip_network("fd02::/64"), ip_address("fd01::2")),
        RoutePlan("b", ip_network("0.0.0.0/0"), ip_address("10.2.0.1")),
        RoutePlan("b", ip_network("::/0"), ip_address("fd02::1")),
    ),
)
CABLE = Plan(
    hosts=(HostPlan("a"), HostPlan("b")),
    links=(LinkPlan("one", (end("a", "10.1.0.1/24", "fd01::1/64"), end("b", "10.1.0.2/24", "fd01::2/64"))),),
)


@pytest.fixture
def cable() -> Iterator[Topology]:
    with Topology.build(CABLE) as topology:
        yield topology


def pings(topology: Topology, host: str, target: str) -> bool:
    argv = ["ping", "-n", "-q", "-c", "1", "-W", "0.5", target]
    return topology.host(host).run(argv, check=False).returncode == 0


def test_switches_switch_and_routers_route() -> None:
    with Topology.build(ROUTED) as topology:
        for target in ("10.1.0.3", "fd01::3", "10.2.0.2", "fd02::2"):
            assert pings(topology, "a", target), target
        assert not pings(topology, "c", "10.2.0.2"), "c was given no route"


def test_a_plan_says_what_it_will_do() -> None:
    assert [str(step) for step in ROUTED.steps()] == [
        "start host a",
        "start switch s",
        "start router r",
        "start host b",
        "start host c",
        "link a and s by a-s",
        "link c and s by c-s",
        "link r and s by r-s",
        "link r and b by r-b",
        "route 10.2.0.0/24 via 10.1.0.2 on a",
        "route fd02::/64 via fd01::2 on a",
        "route 0.0.0.0/0 via 10.2.0.1 on b",
        "route ::/0 via fd02::1 on b",
    ]


def test_what_is_not_there_is_named(cable: Topology) -> None:
    with pytest.raises(LabError, match="there is no host z; there are a, b"):
        cable.host("z")
    with pytest.raises(LabError, match="there is no link two; there are one"):
        cable.link("two")
    with pytest.raises(LabError, match="link one does not end at z"):
        cable.link("one").end("z")
    with pytest.raises(LabError, match="a is no NAT; there are none"):
        cable.nat("a")
    with pytest.raises(LabError, match=r"no link of a leads to 192.0.2.1"):
        cable.end_towards("a", ip_address("192.0.2.1"))


def test_a_link_that_went_down_comes_back_with_addresses_and_routes() -> None:
    with Topology.build(ROUTED) as topology:
        near = topology.link("a-s").end("a")
        near.set_up(False)
        assert not pings(topology, "a", "10.2.0.2")
        near.set_up(True)
        # The switch's port takes its time to forward again.
        wait_until(
            lambda: pings(topology, "a", "10.1.0.3"), timeout_s=10, what="an answer over the link that came back"
        )
        for target in ("fd01::3", "10.2.0.2", "fd02::2"):
            assert pings(topology, "a", target), target


@pytest.mark.parametrize("backend", [Backend.VETH, Backend.EMULATOR])
def test_an_end_that_goes_down_takes_the_others_carrier(backend: Backend) -> None:
    with Topology.build(replace(CABLE, links=(replace(CABLE.links[0], backend=backend),))) as topology:
        link = topology.link("one")
        carrier = ["cat", "/sys/class/net/one/carrier"]
        link.set_up(link.end("a"), False)
        wait_until(lambda: topology.host("b").run(carrier).stdout == "0\n", timeout_s=10, what="the end of the carrier")
        link.set_up(link.end("a"), True)
        wait_until(lambda: topology.host("b").run(carrier).stdout == "1\n", timeout_s=10, what="the carrier")
        wait_until(
            lambda: pings(topology, "b", "10.1.0.1"), timeout_s=10, what="an answer over the link that came back"
        )
        assert pings(topology, "a", "fd01::2")


def test_what_is_sent_without_a_carrier_is_not_held_against_the_emulator() -> None:
    with Topology.build(replace(CABLE, links=(replace(CABLE.links[0], backend=Backend.EMULATOR),))) as topology:
        link = topology.link("one")
        for ends in ([link.end("a")], list(link.ends)):
            for end in ends:
                link.set_up(end, False)
            wait_until(lambda: not link.end("b").operational, timeout_s=10, what="the end of the carrier")
            with topology.host("b").socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for _ in range(50):
                    with contextlib.suppress(OSError):
                        sender.sendto(b"lost", ("10.1.0.1", 9))
            for end in ends:
                link.set_up(end, True)
            stats = link.stats()
            assert stats is not None
            assert stats.unread_frames == 0


@pytest.mark.parametrize("target", ["10.1.0.2", "fd01::2"])
def test_a_neighbour_that_missed_a_question_is_asked_again_at_once(cable: Topology, target: str) -> None:
    far = cable.link("one").end("b")
    far.set_dark(True)
    with cable.host("a").socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.sendto(b"", (target, 9))
    far.set_dark(False)
    # The kernel's own second would not be over when this gives up.
    assert pings(cable, "a", target)


def test_the_second_best_route_takes_over_when_its_link_goes_down() -> None:
    links = (
        LinkPlan("near", (end("a", "10.1.0.1/24"), end("b", "10.1.0.2/24"))),
        LinkPlan("next", (end("a", "10.2.0.1/24"), end("b", "10.2.0.2/24"))),
    )
    everything = ip_network("0.0.0.0/0")
    routes = (
        RoutePlan("a", everything, ip_address("10.2.0.2"), 200),
        RoutePlan("a", everything, ip_address("10.1.0.2"), 100),
    )
    with Topology.build(Plan((HostPlan("a"), HostPlan("b")), links, routes)) as topology:
        ask = ["ip", "route", "get", "192.0.2.1"]
        assert "dev near" in topology.host("a").run(ask).stdout
        topology.link("near").end("a").set_up(False)
        assert "dev next" in topology.host("a").run(ask).stdout
        topology.link("near").end("a").set_up(True)
        assert "dev near" in topology.host("a").run(ask).stdout


def test_a_route_is_led_through_another_neighbour() -> None:
    with Topology.build(ROUTED) as topology:
        topology.reroute("a", ip_network("10.2.0.0/24"), "c")
        shown = topology.host("a").run(["ip", "route", "show", "10.2.0.0/24"]).stdout
        assert shown.split()[:3] == ["10.2.0.0/24", "via", "10.1.0.3"]
        assert shown.count("\n") == 1
        topology.link("a-s").end("a").set_up(False)
        topology.link("a-s").end("a").set_up(True)
        assert "via 10.1.0.3" in topology.host("a").run(["ip", "route", "show", "10.2.0.0/24"]).stdout
        with pytest.raises(LabError, match="b is no neighbour of a"):
            topology.reroute("a", ip_network("10.2.0.0/24"), "b")


def test_a_route_outlasts_the_only_address_of_its_network() -> None:
    with Topology.build(ROUTED) as topology:
        near = topology.link("a-s").end("a")
        near.remove_address(ip_interface("10.1.0.1/24"))
        assert not pings(topology, "a", "10.2.0.2")
        near.add_address(ip_interface("10.1.0.77/24"))
        assert "via 10.1.0.2" in topology.host("a").run(["ip", "route", "get", "10.2.0.2"]).stdout


def test_frames_that_an_interface_dropped_as_it_went_down_are_no_fault_of_the_emulator() -> None:
    slow = Impairment(delay_ms=1)
    link = LinkPlan("one", (end("a", "10.1.0.1/24", sends=slow), end("b", "10.1.0.2/24", sends=slow)))
    link = replace(link, backend=Backend.EMULATOR)
    with Topology.build(Plan((HostPlan("a"), HostPlan("b")), (link,))) as topology:
        laid = topology.link("one")
        laid.stats(restart=True)
        near, flood = laid.end("a"), topology.host("a").start(["ping", "-f", "-q", "10.1.0.2"])
        for _ in range(10):
            near.set_up(False)
            near.set_up(True)
            wait_until(lambda: pings(topology, "a", "10.1.0.2"), timeout_s=10, what="an answer over the link")
        flood.stop()
        stats = laid.stats()
        assert stats is not None
        assert stats.unread_frames == 0


def test_a_dark_end_hears_nothing_and_nobody_is_told(cable: Topology) -> None:
    far = cable.link("one").end("b")
    far.set_dark(True)
    assert not pings(cable, "a", "10.1.0.2")
    assert not pings(cable, "a", "fd01::2")
    assert all(each.operational for each in cable.link("one").ends)
    far.set_dark(False)
    # A neighbour that was sought in vain is not sought again at once.
    wait_until(lambda: pings(cable, "a", "10.1.0.2"), timeout_s=10, what="an answer over the link that was dark")


def test_addresses_come_and_go(cable: Topology) -> None:
    far = cable.link("one").end("b")
    far.add_address(ip_interface("10.1.0.77/24"))
    far.add_address(ip_interface("fd01::77/64"))
    assert pings(cable, "a", "10.1.0.77")
    assert pings(cable, "a", "fd01::77")
    far.remove_address(ip_interface("10.1.0.2/24"))
    assert not pings(cable, "a", "10.1.0.2")
    assert pings(cable, "a", "10.1.0.77"), "the kernel takes secondary addresses along with the first"
    with pytest.raises(LabError, match=r"one of b has no address 10\.1\.0\.2/24"):
        far.remove_address(ip_interface("10.1.0.2/24"))


def test_an_address_may_go_while_its_interface_is_down(cable: Topology) -> None:
    far = cable.link("one").end("b")
    far.set_up(False)
    far.remove_address(ip_interface("fd01::2/64"))
    far.remove_address(ip_interface("10.1.0.2/24"))
    far.set_up(True)
    assert "10.1.0.2" not in cable.host("b").run(["ip", "address"]).stdout
    assert "fd01::2" not in cable.host("b").run(["ip", "address"]).stdout


def test_ends_are_set_up_as_planned() -> None:
    link = LinkPlan(
        "one", (end("a"), end("b")), mtu=1280, txqueuelen=77, offloads=False, features={"rx-checksum": False}
    )
    with Topology.build(Plan(CABLE.hosts, (link,))) as topology:
        for name in ("a", "b"):
            host = topology.host(name)
            shown = host.run(["ip", "link", "show", "one"]).stdout
            assert " mtu 1280 " in shown
            assert " qlen 77" in shown
            found = features(host, "one")
            assert not any(found[feature] for feature in OFFLOADS)
            assert not found["rx-checksum"]
            assert found["tx-checksum-ip-generic"]


def test_a_feature_that_is_not_there_is_named_and_nothing_is_left() -> None:
    link = LinkPlan("one", (end("a"), end("b")), features={"telepathy": True})
    with pytest.raises(LabError, match="interface one of a has no feature telepathy"):
        Topology.build(Plan(CABLE.hosts, (link,)))


def test_a_rate_is_kept_by_a_token_bucket_without_super_packets() -> None:
    sends = Impairment(rate_bps=20_000_000)
    plan = Plan(CABLE.hosts, (LinkPlan("one", (end("a", sends=sends), end("b"))),))
    with Topology.build(plan) as topology:
        assert topology.link("one").backend is Backend.TBF
        assert "tbf" in topology.host("a").run(["tc", "qdisc", "show", "dev", "one"]).stdout
        assert "tbf" not in topology.host("b").run(["tc", "qdisc", "show", "dev", "one"]).stdout
        assert not features(topology.host("a"), "one")["tx-tcp-segmentation"]
        with pytest.raises(LabError, match="without the means to change so"):
            topology.link("one").change(topology.link("one").end("a"), Change(delay_ms=5))


def test_a_delay_is_emulated_and_changes() -> None:
    sends = Impairment(delay_ms=20)
    ends = (end("a", "10.1.0.1/24", sends=sends), end("b", "10.1.0.2/24"))
    plan = Plan(CABLE.hosts, (LinkPlan("one", ends, changing=True),))
    with Topology.build(plan) as topology:
        link = topology.link("one")
        assert link.backend in {Backend.EMULATOR, Backend.NETEM}
        assert _round_trip_ms(topology) >= 20
        link.change(link.end("a"), Change(delay_ms=60))
        assert _round_trip_ms(topology) >= 60
        assert link.impairment(link.end("a")).delay_ms == 60


def _round_trip_ms(topology: Topology) -> float:
    said = topology.host("a").run(["ping", "-n", "-q", "-c", "2", "-i", "0.2", "-W", "2", "10.1.0.2"]).stdout
    return float(said.rpartition(" = ")[2].split("/")[0])


class _Fails(Step):
    """A step that cannot be taken."""

    def __str__(self) -> str:
        return "fail"

    def do(self, topology: Topology) -> None:
        raise LabError("this step fails")

    def undo(self, topology: Topology) -> None:
        raise AssertionError("it was never done")


class _Sticks(Step):
    """A step that cannot be taken back."""

    def do(self, topology: Topology) -> None:
        pass

    def undo(self, topology: Topology) -> None:
        raise LabError("this step sticks")


def test_whatever_fails_the_rest_is_taken_down() -> None:
    topology = Topology.build(CABLE)
    directory = topology.run_directory.path
    topology.take(_Sticks())
    with pytest.raises(LabError, match="this step fails"):
        topology.take(_Fails())
    with pytest.raises(ExceptionGroup) as raised:
        topology.close()
    assert [str(error) for error in raised.value.exceptions] == ["this step sticks"]
    assert not topology.hosts
    assert not directory.exists()
    topology.close()


def test_a_topology_whose_hosts_were_taken_away_can_be_closed() -> None:
    topology = Topology.build(ROUTED)
    topology.abort()
    topology.close()
    assert not topology.run_directory.path.exists()


def test_two_topologies_of_one_plan_do_not_meet() -> None:
    with Topology.build(CABLE) as first, Topology.build(CABLE) as second:
        received = {}
        listeners = {}
        for topology in (first, second):
            listeners[topology] = topology.host("b").socket(socket.AF_INET, socket.SOCK_DGRAM)
            listeners[topology].bind(("10.1.0.2", 7000))
            listeners[topology].settimeout(5)
        try:
            for word, topology in ((b"first", first), (b"second", second)):
                with topology.host("a").socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    sender.sendto(word, ("10.1.0.2", 7000))
                received[word] = listeners[topology].recv(100)
            assert received == {b"first": b"first", b"second": b"second"}
            for listener in listeners.values():
                listener.setblocking(False)
                with pytest.raises(BlockingIOError):
                    listener.recv(100)
        finally:
            for listener in listeners.values():
                listener.close()


def test_hosts_have_directories_of_their_own(cable: Topology) -> None:
    paths = {host.directory for host in cable.hosts.values()}
    assert len(paths) == 2
    assert all(path.parent == cable.run_directory.path for path in paths)
    longest = cable.host("a").run_directory / "wireguard" / "interface-15-b.sock"
    assert len(str(Path(longest))) < 100, "paths of sockets may have 107 bytes"
