"""The model of scenario files: what is refused, with which words, and what is counted off."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from lab import scenario
from lab.attempt import unavailable
from lab.errors import LabError
from lab.impairment import Backend, Impairment, can_become, choose_backend
from lab.measurement import Ground, Look, Shown
from lab.timeline import AddressChange, Blackhole, ClockStep, LinkChange
from lab.topology import RoutePlan
from lab.tunnels.plain import Plain

HEAD = """
title = "A scenario"
description = "For tests."
budget_s = 10
"""
HOSTS = """
[[host]]
name = "left"
[[host]]
name = "right"
"""
LINK = """
[[link]]
name = "one"
ends = ["left", "right"]
"""
TUNNEL = """
[tunnel]
left = { host = "left", links = ["one"] }
right = { host = "right", links = ["one"] }
"""
PROBE = """
[[probe]]
name = "stream"
kind = "datagrams"
duration_s = 1
"""
WHOLE = HEAD + HOSTS + LINK + TUNNEL + PROBE

BAD = {
    "no TOML": ("title = ", "Invalid value"),
    "meeting of a stranger": (
        WHOLE + '[meeting]\nthird = "middle"\nleft = ["left"]\nright = ["right"]\n',
        "meeting: there is no host 'middle' with a link",
    ),
    "figure of a meeting there is not": (
        WHOLE + '[[expect]]\nfigure = "meeting.told"\nequals = 1\n',
        "there is no probe 'meeting'",
    ),
    "unknown key": (HEAD + "colour = 3\n" + WHOLE.removeprefix(HEAD), "unknown field `colour`"),
    "key that is not of the file": (HEAD + 'name = "x"\n' + WHOLE.removeprefix(HEAD), "unknown field `name`"),
    "unknown key of a link": (WHOLE.replace('name = "one"', 'name = "one"\nspeed = 3'), "`speed` - at `$.link[0]`"),
    "unknown key of an impairment": (
        WHOLE.replace('name = "one"', 'name = "one"\nboth = { lag_ms = 3 }'),
        "`lag_ms` - at `$.link[0].both`",
    ),
    "impairment that means nothing": (
        WHOLE.replace('name = "one"', 'name = "one"\nboth = { loss = 5.0 }'),
        "5 % is 0.05",
    ),
    "missing key": (WHOLE.replace("budget_s = 10", ""), "missing required field `budget_s`"),
    "unknown kind of probe": (WHOLE.replace('kind = "datagrams"', 'kind = "smell"'), "Invalid value 'smell'"),
    "unknown event": (WHOLE + '[[timeline]]\nat = 1\ndo = "dance"\n', "Invalid value 'dance'"),
    "no event at all": (WHOLE + "[[timeline]]\nat = 1\n", "missing required field `do`"),
    "two hosts of one name": (WHOLE + '[[host]]\nname = "left"\n', "host 'left' is there twice"),
    "two links of one name": (WHOLE + LINK, "link 'one' is there twice"),
    "name too long": (WHOLE.replace('"one"', '"one-two-three-four"'), "at most 15"),
    "link to nowhere": (WHOLE.replace('["left", "right"]', '["left", "rite"]'), "there is no host 'rite'"),
    "link to itself": (WHOLE.replace('["left", "right"]', '["left", "left"]'), "joins left to itself"),
    "address that is none": (
        WHOLE.replace('name = "one"', 'name = "one"\naddresses = { left = ["10.0.0.300/8"] }'),
        "'10.0.0.300/8' does not appear to be an IPv4 or IPv6 interface",
    ),
    "address inside the tunnel": (
        WHOLE.replace('name = "one"', 'name = "one"\naddresses = { left = ["10.7.0.9/16"] }'),
        "link one: 10.7.0.9/16 overlaps 10.7.0.0/24, which is inside the tunnel; give it another",
    ),
    "address that is none, and an end that would be looked for by address": (
        WHOLE.replace('name = "one"', 'name = "one"\naddresses = { left = ["10.0.0.300/8"] }')
        + '[[timeline]]\nat = 1\ndo = "process-kill"\nend = "middle"\n',
        "'10.0.0.300/8' does not appear to be an IPv4 or IPv6 interface",
    ),
    "address of a stranger": (
        WHOLE.replace('name = "one"', 'name = "one"\naddresses = { middle = ["10.0.0.3/8"] }'),
        "there is no host 'middle'",
    ),
    "tunnel of a stranger": (
        WHOLE.replace('host = "left"', 'host = "middle"'),
        "tunnel.left: there is no host 'middle'",
    ),
    "tunnel over no link": (WHOLE.replace('links = ["one"] }', "links = [] }", 1), "tunnel.left: no links"),
    "tunnel over another's link": (
        WHOLE.replace('links = ["one"] }', 'links = ["two"] }', 1),
        "link 'two' is not there or does not end at 'left'",
    ),
    "end found nowhere": (
        WHOLE.replace('links = ["one"] }', 'links = ["one"], found = ["nowhere"] }', 1),
        "tunnel.left.found: 'nowhere' is not ADDRESS:PORT",
    ),
    "event on no link": (
        WHOLE + '[[timeline]]\nat = 1\ndo = "link-down"\nlink = "two"\n',
        "timeline at 1 (link-down): there is no link 'two'",
    ),
    "event on no host": (
        WHOLE + '[[timeline]]\nat = 1\ndo = "link-down"\nlink = "one"\nhost = "me"\n',
        "there is no host 'me'",
    ),
    "event before the beginning": (
        WHOLE + '[[timeline]]\nat = -1\ndo = "link-down"\nlink = "one"\n',
        "before the beginning",
    ),
    "never": (
        WHOLE + '[[timeline]]\nat = 1\ndo = "link-down"\nlink = "one"\nrepeat = 0\n',
        "`int` >= 1 - at `$.timeline[0].repeat`",
    ),
    "rebinding of no NAT": (WHOLE + '[[timeline]]\nat = 1\ndo = "nat-rebind"\nrouter = "left"\n', "left is no NAT"),
    "route of a stranger": (WHOLE + '[[route]]\nhost = "me"\nvia = "left"\n', "route: there is no host 'me'"),
    "NAT without an outside": (
        WHOLE + '[[nat]]\nrouter = "left"\nkind = "symmetric"\noutside = "two"\n',
        "nat: link 'two' is not there or does not end at 'left'",
    ),
    "two probes of one name": (WHOLE + PROBE, "two probes have one name"),
    "expectation of no probe": (
        WHOLE + '[[expect]]\nfigure = "steam.lost"\nequals = 0\n',
        "expect steam.lost: there is no probe 'steam'",
    ),
    "expectation of no figure": (
        WHOLE + '[[expect]]\nfigure = "stream.misplaced"\nequals = 0\n',
        "a Datagrams probe has planned, sent",
    ),
    "expectation without a bound": (WHOLE + '[[expect]]\nfigure = "stream.lost"\n', "give equals, at_least or at_most"),
    "expectation above what is no time": (
        WHOLE + '[[expect]]\nfigure = "stream.longest_gap_s"\nat_most = 1\nabove = "stream.lost"\n',
        "expect stream.lost: is no time",
    ),
    "expectation above no probe": (
        WHOLE + '[[expect]]\nfigure = "stream.longest_gap_s"\nat_most = 1\nabove = "echo.max_us"\n',
        "expect echo.max_us: there is no probe 'echo'",
    ),
    "no time at all": (WHOLE.replace("budget_s = 10", "budget_s = 0"), "budget_s must be greater than 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_cannot_be_used_is_refused_in_one_line_that_names_it(case: str) -> None:
    text, words = BAD[case]
    with pytest.raises(LabError) as refusal:
        scenario.parse(text, name="odd")
    assert str(refusal.value).startswith("scenario odd: ")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_addresses_are_counted_off_by_network() -> None:
    text = HEAD + HOSTS + LINK + LINK.replace('"one"', '"two"') + TUNNEL + PROBE
    addresses = scenario.parse(text, name="x").addresses
    assert addresses["one", "left"] == (ip_interface("10.1.0.1/24"), ip_interface("fd00:0:0:1::1/64"))
    assert addresses["two", "right"] == (ip_interface("10.2.0.2/24"), ip_interface("fd00:0:0:2::2/64"))


def test_no_counted_network_is_the_one_inside_the_tunnel() -> None:
    more = "".join(LINK.replace('"one"', f'"more-{number}"') for number in range(2, 10))
    addresses = scenario.parse(HEAD + HOSTS + LINK + more + TUNNEL + PROBE, name="x").addresses
    seen = [addresses[name, "left"] for name in ("one", "more-6", "more-7", "more-9")]
    assert [str(v4) for v4, _ in seen] == ["10.1.0.1/24", "10.6.0.1/24", "10.8.0.1/24", "10.10.0.1/24"]
    assert seen[2][1] == ip_interface("fd00:0:0:8::1/64")
    inside = {interface.network for interfaces in scenario.INNER.values() for interface in interfaces}
    assert inside.isdisjoint(each.network for interfaces in addresses.values() for each in interfaces)


def test_a_switch_and_its_links_are_one_network() -> None:
    links = LINK.replace('"right"]', '"middle"]') + LINK.replace('"one"', '"two"').replace('"left"', '"middle"')
    text = (
        HEAD
        + HOSTS
        + '[[host]]\nname = "middle"\nkind = "switch"\n'
        + links
        + TUNNEL.replace('host = "right", links = ["one"]', 'host = "right", links = ["two"]')
    )
    addresses = scenario.parse(text + PROBE, name="x").addresses
    assert [str(each) for each in addresses["one", "left"]] == ["10.1.0.1/24", "fd00:0:0:1::1/64"]
    assert [str(each) for each in addresses["two", "right"]] == ["10.1.0.2/24", "fd00:0:0:1::2/64"]
    assert addresses["one", "middle"] == addresses["two", "middle"] == ()


def test_addresses_that_are_given_are_taken() -> None:
    text = WHOLE.replace('name = "one"', 'name = "one"\naddresses = { left = ["192.0.2.1/30"] }')
    addresses = scenario.parse(text, name="x").addresses
    assert addresses["one", "left"] == (ip_interface("192.0.2.1/30"),)
    assert addresses["one", "right"][0] == ip_interface("10.1.0.1/24")


def test_routes_go_by_names() -> None:
    links = LINK.replace('"right"]', '"middle"]') + LINK.replace('"one"', '"two"').replace('"left"', '"middle"')
    tunnel = TUNNEL.replace('host = "right", links = ["one"]', 'host = "right", links = ["two"]')
    routes = '[[route]]\nhost = "left"\nvia = "middle"\nto = "two"\n[[route]]\nhost = "right"\nvia = "middle"\n'
    text = HEAD + HOSTS + '[[host]]\nname = "middle"\nkind = "router"\n' + links + routes + tunnel + PROBE
    assert set(scenario.parse(text, name="x").plan().routes) == {
        RoutePlan("left", ip_network("10.2.0.0/24"), ip_address("10.1.0.2")),
        RoutePlan("left", ip_network("fd00:0:0:2::/64"), ip_address("fd00:0:0:1::2")),
        RoutePlan("right", ip_network("0.0.0.0/0"), ip_address("10.2.0.1")),
        RoutePlan("right", ip_network("::/0"), ip_address("fd00:0:0:2::1")),
    }


def test_two_links_to_one_router_take_turns_by_their_metric() -> None:
    links = LINK.replace('"right"]', '"middle"]') + LINK.replace('"one"', '"two"').replace('"right"]', '"middle"]')
    links += LINK.replace('"one"', '"far"').replace('"left"', '"middle"')
    tunnel = TUNNEL.replace('host = "right", links = ["one"]', 'host = "right", links = ["far"]')
    route = '[[route]]\nhost = "left"\nvia = "middle"\nto = "far"\n'
    routes = f'{route}link = "two"\nmetric = 7\n{route}link = "one"\nmetric = 9\n'
    text = HEAD + HOSTS + '[[host]]\nname = "middle"\nkind = "router"\n' + links + routes + tunnel + PROBE
    plan = scenario.parse(text, name="x").plan()
    assert [(plan.via, plan.metric) for plan in plan.routes if plan.destination.version == 4] == [
        (ip_address("10.2.0.2"), 7),
        (ip_address("10.1.0.2"), 9),
    ]
    with pytest.raises(LabError, match="route: there is no link 'ten'"):
        scenario.parse(text.replace('link = "two"', 'link = "ten"'), name="x")


def test_what_one_end_sends_goes_before_what_both_send() -> None:
    text = WHOLE.replace(
        'name = "one"', 'name = "one"\nboth = { delay_ms = 5 }\nsends = { right = { rate_bps = 1_000_000 } }'
    )
    (link,) = scenario.parse(text, name="x").plan().links
    assert [end.sends for end in link.ends] == [Impairment(delay_ms=5), Impairment(rate_bps=1_000_000)]
    assert not link.changing


def test_a_clock_is_stepped_where_a_tunnel_has_one_of_its_own() -> None:
    (event,) = scenario.parse(
        WHOLE + '[[timeline]]\nat = 1\ndo = "clock-step"\nend = "left"\nahead_s = -3e8\n', name="x"
    ).timeline
    assert isinstance(event, ClockStep)
    assert event.title == "clock-step left -9.5 years"
    with pytest.raises(LabError, match="No VPN has no clock of its own"):
        Plain().set_clock(None, 1.0)  # type: ignore[arg-type]  # which it does not look at


def test_events_are_what_they_are_called() -> None:
    text = WHOLE + (
        '[[timeline]]\nat = 1\ndo = "link-change"\nlink = "one"\nchange = { loss = 0.5 }\n'
        '[[timeline]]\nat = 2\ndo = "blackhole"\nlink = "one"\ntowards = "left"\n'
        '[[timeline]]\nat = 3\ndo = "address-change"\nlink = "one"\nhost = "left"\naddress = "10.1.0.9/24"\n'
    )
    found = scenario.parse(text, name="x")
    assert [type(event) for event in found.timeline] == [LinkChange, Blackhole, AddressChange]
    assert [event.title for event in found.timeline][1:] == [
        "blackhole one left",
        "address-change one left 10.1.0.9/24",
    ]
    (link,) = found.plan().links
    assert link.changing
    assert link.backend is None


def test_a_link_that_becomes_narrow_is_emulated_whatever_the_kernel_has() -> None:
    text = WHOLE + '[[timeline]]\nat = 1\ndo = "link-change"\nlink = "one"\nchange = { mtu_bytes = 1280 }\n'
    (link,) = scenario.parse(text, name="x").plan().links
    assert link.backend is Backend.EMULATOR


def test_an_end_is_found_where_the_file_says() -> None:
    found = scenario.parse(WHOLE, name="x")
    assert found.end("left").found_at is None
    hidden = scenario.parse(WHOLE.replace('links = ["one"] }', 'links = ["one"], found = false }', 1), name="x")
    assert hidden.end("left").found_at == ()
    elsewhere = WHOLE.replace('links = ["one"] }', 'links = ["one"], found = ["192.0.2.7:5000"] }', 1)
    assert [str(each) for each in scenario.parse(elsewhere, name="x").end("left").found_at or ()] == ["192.0.2.7:5000"]


def test_outer_addresses_are_of_the_ip_version_outside() -> None:
    found = scenario.parse(WHOLE.replace("[tunnel]", "[tunnel]\nip_version = 6"), name="x")
    assert [str(each) for each in found.outer(found.tunnel.right)] == ["fd00:0:0:1::2"]
    assert len(found.outer(found.tunnel.right, either=True)) == 2


def test_an_end_may_have_several_machines_and_a_host_behind_them() -> None:
    text = WHOLE.replace(
        'right = { host = "right", links = ["one"] }',
        """right = { host = "right", links = ["one"], members = [{ host = "spare", links = ["two"] }], behind = "site" }
[[host]]
name = "spare"
[[host]]
name = "site"
[[link]]
name = "two"
ends = ["spare", "site"]
[[timeline]]
at = 1
do = "session-move"
source = "right"
target = "spare"
host = "site"
to = "10.7.0.1/32"
[[expect]]
figure = "spare.peers.0.session.rekeys"
equals = 0
""",
    )
    found = scenario.parse(text, name="x")
    assert found.members == ("right", "spare")
    assert [machine.host for machine in found.tunnel.right.machines] == ["right", "spare"]
    assert [str(each) for each in found.outer(found.tunnel.right.members[0])] == ["10.2.0.1"]
    assert found.timeline[0].title == "session-move right spare site 10.7.0.1/32"
    for before, after, words in (
        ('target = "spare"', 'target = "site"', "there is no end and no member 'site'"),
        ('links = ["two"]', 'links = ["one"]', "link 'one' is not there or does not end at 'spare'"),
        ('behind = "site"', 'behind = "nobody"', "tunnel.right.behind: there is no host 'nobody' with a link"),
        ('figure = "spare.', 'figure = "site.', "there is no probe 'site'"),
    ):
        with pytest.raises(LabError, match=words):
            scenario.parse(text.replace(before, after), name="x")


def test_machines_of_a_cluster_name_what_they_talk_over() -> None:
    found = scenario.load(scenario.find("balance-weights"))
    assert [str(found.channel(machine)) for machine in found.tunnel.right.machines] == [
        "10.6.0.1",
        "10.6.0.2",
        "10.6.0.3",
    ]
    assert [machine.weight for machine in found.tunnel.right.machines] == [200, 100, 100]
    assert found.channel(found.tunnel.left) is None
    text = scenario.find("balance-weights").read_text()
    for before, after in (('channel = "lan-b", ', ""), ('channel = "lan-b"', 'channel = "lan-c"')):
        with pytest.raises(LabError, match=r"tunnel.right: each machine of a cluster names a link of its own"):
            scenario.parse(text.replace(before, after), name="x")


def test_machines_of_a_cluster_find_each_other_in_a_store() -> None:
    text = scenario.find("store-gone").read_text()
    found = scenario.parse(text, name="x")
    assert {name: str(address) for name, address in found.stores.items()} == {"store": "10.6.0.5"}
    assert [machine.started for machine in found.tunnel.right.machines] == [True, True, False]
    assert [event.title for event in found.timeline if "store" in event.title] == [
        "process-kill store",
        "process-restart store",
    ]
    for before, after, words in (
        ('store = "store"', 'store = "nobody"', "tunnel.right.store: there is no host 'nobody' with an IPv4 address"),
        ('store = "store"', 'store = "lan"', "tunnel.right.store: there is no host 'lan' with an IPv4 address"),
        ('channel = "lan-a"\n', "", "tunnel.right.store is for a cluster; give each of its machines a channel"),
        (
            'channel = "lan-a"\n',
            'channel = "lan-a"\nstarted = false\n',
            "the first machine of an end is always started",
        ),
        ('do = "process-kill"\nend = "store"', 'do = "process-kill"\nend = "site"', "no end and no member 'site'"),
        (
            'do = "process-kill"\nend = "store"',
            'do = "clock-step"\nahead_s = 1\nend = "store"',
            "there is no end and no member 'store'",
        ),
        ('kind = "show"\nat = 15\nend = "a"', 'kind = "show"\nat = 15\nend = "site"', "no end and no member 'site'"),
        ("a-misses-it.shown.", "a-misses-it.store.", "a Look probe has shown"),
    ):
        with pytest.raises(LabError, match=words):
            scenario.parse(text.replace(before, after, 1), name="x")


def test_a_look_compares_with_an_earlier_one_at_the_same_end() -> None:
    text = scenario.find("replay-across").read_text()
    for wrong in ("nobody", "many", "c-before", "b-after"):
        with pytest.raises(LabError, match=f"probe b-after: there is no earlier look at b named '{wrong}'"):
            scenario.parse(text.replace('since = "b-before"', f'since = "{wrong}"'), name="x")


def path(remote: str, state: str = "usable", shard: int = 0, *, heard: float | None = 0.1) -> dict[str, Any]:
    return {"local": "192.0.2.1:5", "remote": remote, "shard": shard, "state": state, "last_heard_s": heard}


@pytest.mark.parametrize(
    ("paths", "changed"),
    [
        ([path("192.0.2.2:5"), path("192.0.2.3:5", "lost")], 0),
        ([path("192.0.2.3:5", "probing"), path("192.0.2.2:5", "suspect")], 0),
        ([path("192.0.2.2:5", "lost"), path("192.0.2.3:5", "lost")], 2),
        ([path("192.0.2.2:5", shard=16), path("192.0.2.3:5", "lost")], 2),
        ([path("192.0.2.2:5"), path("192.0.2.3:5", "lost"), path("192.0.2.9:5", "probing")], 1),
        ([path("192.0.2.2:5"), path("192.0.2.3:5", "lost"), path("192.0.2.9:5", "probing", heard=None)], 0),
        ([path("192.0.2.2:5")], 1),
    ],
)
def test_a_look_counts_the_paths_that_are_not_as_they_were(
    tmp_path: Path, paths: list[dict[str, Any]], changed: int
) -> None:
    said = iter([[path("192.0.2.2:5"), path("192.0.2.3:5", "lost")], paths])
    host: Any = None
    ground = Ground(host, host, "", tmp_path, 0, state=lambda _: {"peers": [{"paths": next(said)}]})
    first = Look(name="before", at=1, end="left").begin(ground).finish()
    second = Look(name="after", at=2, end="left", since="before").begin(ground).finish()
    assert isinstance(first, Shown)
    assert isinstance(second, Shown)
    assert (first.paths_changed, second.paths_changed) == (None, changed)


def test_a_store_is_needed_where_a_scenario_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.attempt.store_unavailable", lambda: "it has no etcd")
    assert unavailable(scenario.load(scenario.find("member-dies")), Plain()) is None
    lack = unavailable(scenario.load(scenario.find("store-gone")), Plain())
    assert lack == "this machine can run no store: it has no etcd"


def test_an_onlooker_looks_at_links_of_its_host() -> None:
    text = scenario.find("replay-across").read_text()
    with pytest.raises(LabError, match="probe wire: link 'lan-b' is not there or does not end at 'isp'"):
        scenario.parse(text.replace('links = ["net-a"]\nreplay', 'links = ["lan-b"]\nreplay'), name="x")


def test_the_digest_is_of_the_text() -> None:
    assert scenario.parse(WHOLE, name="x").digest != scenario.parse(WHOLE + "\n", name="x").digest


@pytest.mark.parametrize("path", scenario.every(), ids=lambda path: path.stem)
def test_scenarios_of_the_project_are_sound_and_in_the_index(path: Path) -> None:
    found = scenario.load(path)
    assert found.expect, "a scenario without an expectation shows nothing"
    assert f"[{found.name}]({path.name})" in (scenario.SCENARIOS / "README.md").read_text()


def test_a_scenario_is_found_by_name_or_path_or_not_at_all() -> None:
    assert scenario.find("two-hosts") == scenario.find(str(scenario.SCENARIOS / "two-hosts.toml"))
    with pytest.raises(LabError, match="there is no scenario 'nowhere'"):
        scenario.find("nowhere")


@pytest.mark.parametrize("path", scenario.every(), ids=lambda path: path.stem)
def test_what_happens_to_links_can_happen_on_a_kernel_that_has_netem(path: Path) -> None:
    """As in a guest, where nobody else would notice that a link was laid without the means to change so."""
    found = scenario.load(path)
    for link in found.plan().links:
        now = {end.host: end.sends for end in link.ends}
        backend = link.backend or choose_backend(now.values(), changing=link.changing, netem=True)
        assert all(can_become(backend, impairment) for impairment in now.values())
        for event in sorted(found.timeline, key=lambda event: event.at):
            if isinstance(event, LinkChange) and event.link == link.name:
                now |= {host: now[host].merge(event.change) for host in ([event.sender] if event.sender else now)}
                assert all(can_become(backend, impairment) for impairment in now.values()), event.title
