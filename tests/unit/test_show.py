"""Show: the JSON schema and the text, against golden ones."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Literal

import click
import msgspec
import pytest

from centipede import show
from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.identity import Identity
from centipede.protocol.status import HandshakeStatus, MemberStatus, PathStatus, PeerStatus, SessionStatus
from centipede.protocol.table import Run

LAPTOP = Identity.from_seed(bytes([2]) * 32).public
PHONE = Identity.from_seed(bytes([3]) * 32).public

PATH = PathStatus(
    path=1,
    local=Endpoint("192.0.2.10", 51820),
    remote=Endpoint("2001:db8::7", 4000),
    shard=0,
    state="usable",
    carries=True,
    reason="carries data",
    rtt_ms=12.345,
    jitter_ms=0.5,
    loss=0.0125,
    mtu=1452,
    rx_bytes=3 << 20,
    tx_bytes=1536,
    rx_packets=2200,
    tx_packets=12,
    tx_share=0.625,
    last_heard_s=0.2,
    observed=Endpoint("203.0.113.5", 4001),
)
LOST = PathStatus(
    path=2,
    local=Endpoint("198.51.100.1", 51820),
    remote=Endpoint("198.51.100.7", 51820),
    shard=0,
    state="lost",
    carries=False,
    reason="nothing was heard for too long",
    rtt_ms=None,
    jitter_ms=None,
    loss=None,
    mtu=1452,
    rx_bytes=0,
    tx_bytes=0,
    rx_packets=0,
    tx_packets=0,
    tx_share=None,
    last_heard_s=None,
    observed=None,
)
PEERS = [
    show.picture(
        PeerStatus(
            public_key=PHONE,
            name="phone",
            session=SessionStatus("initiating", None, 0),
            handshake=HandshakeStatus("Initiate sent to 2 address pairs, no answer", DropReason.BAD_MAC1, 3, 12.5),
            allowed_ips=(),
            scheduler="fastest",
            rx_bytes=0,
            tx_bytes=0,
            rx_packets=0,
            tx_packets=0,
            duplicates=0,
            members=(),
            paths=(LOST,),
        ),
        copies=2,
        endpoints=["phone.example.net:51820"],
        unresolved={"phone.example.net": "Name or service not known"},
    ),
    show.picture(
        PeerStatus(
            public_key=LAPTOP,
            name="laptop",
            session=SessionStatus("established", 63.0, 1),
            handshake=None,
            allowed_ips=(ip_network("10.7.0.2/32"), ip_network("fd07::2/128")),
            scheduler="redundant",
            rx_bytes=3 << 20,
            tx_bytes=1536,
            rx_packets=2200,
            tx_packets=12,
            duplicates=1100,
            members=(
                MemberStatus(Run(4, 2), (Endpoint("198.51.100.7", 4000), Endpoint("2001:db8::7", 4000)), 255, 0.75),
                MemberStatus(Run(8), (Endpoint("198.51.100.8", 4000),), 85, 0.25),
            ),
            paths=(PATH, LOST),
        ),
        copies=None,
        endpoints=["vpn.example.net:51820", "198.51.100.7:51820"],
        unresolved={},
    ),
]
INTERFACE = show.Interface(
    name="site-a",
    public_key=LAPTOP.text,
    engine="python",
    engine_reason="configured",
    engine_details={"aead": "OpenSSL 3.0.2"},
    workers=1,
    mtu=1420,
    addresses=["10.7.0.1/24"],
    listen=["192.0.2.10:51820", "198.51.100.1:51820"],
    observed=show.observed(PEERS),
    pid=77,
    uptime_s=100.5,
    peers=PEERS,
    drops={"bad_tag": 3, "duplicate": 1100},
)

TEXT = f"""\
interface: site-a
  public key: {LAPTOP.text}
  addresses: 10.7.0.1/24
  listening: 192.0.2.10:51820, 198.51.100.1:51820
  seen as: 192.0.2.10:51820: 203.0.113.5:4001 (by laptop)
  mtu: 1420
  engine: python, 1 worker, aead OpenSSL 3.0.2
  engine reason: configured
  dropped: 1100 duplicate, 3 bad_tag

peer: laptop
  public key: {LAPTOP.text}
  endpoints: vpn.example.net:51820, 198.51.100.7:51820
  allowed ips: 10.7.0.2/32, fd07::2/128
  session: established 1 minute, 3 seconds ago, 1 rekey
  transfer: 3.00 MiB received, 1.50 KiB sent, 1100 duplicates received
  scheduler: redundant, all paths
  members: 198.51.100.7:4000 and [2001:db8::7]:4000 (shard 4) 75% of the flows, \
198.51.100.8:4000 (shard 8) 25% of the flows
  path: 192.0.2.10:51820 - [2001:db8::7]:4000: usable (carries data), rtt 12.3 ms, jitter 0.5 ms, loss 1.2 %, \
mtu 1452, 3.00 MiB received, 1.50 KiB sent, 62 % of what is sent, heard just now
  path: 198.51.100.1:51820 - 198.51.100.7:51820: lost (nothing was heard for too long), mtu 1452, never heard

peer: phone
  public key: {PHONE.text}
  endpoints: phone.example.net:51820
  unresolved: phone.example.net (Name or service not known)
  allowed ips: (none)
  session: initiating
  handshake: Initiate sent to 2 address pairs, no answer (3 attempts in 12 seconds, last refusal: bad_mac1)
  scheduler: fastest
  path: 198.51.100.1:51820 - 198.51.100.7:51820: lost (nothing was heard for too long), mtu 1452, never heard"""


def test_text_for_people_puts_the_peer_heard_last_first() -> None:
    assert show.render([INTERFACE], str) == TEXT


def test_where_it_is_seen_is_said_with_whom_and_only_while_that_holds() -> None:
    phone, laptop = PEERS
    seen = laptop.paths[0]
    other = msgspec.structs.replace(seen, observed="203.0.113.5:4002", state="suspect")
    gone = msgspec.structs.replace(seen, local="192.0.2.11:1", state="lost")
    peers = [msgspec.structs.replace(phone, paths=[other, gone]), laptop]
    shown = msgspec.structs.replace(INTERFACE, peers=peers, observed=show.observed(peers))
    assert shown.observed == {"192.0.2.10:51820": ["203.0.113.5:4002", "203.0.113.5:4001"]}
    line = "192.0.2.10:51820: 203.0.113.5:4002 (by phone), 203.0.113.5:4001 (by laptop)"
    assert f"seen as: {line}, another for each peer: a symmetric NAT\n" in show.render([shown], str)


def test_several_interfaces_stand_apart() -> None:
    assert show.render([INTERFACE, INTERFACE], str) == f"{TEXT}\n\n{TEXT}"


def test_labels_are_bold_where_that_can_be_shown() -> None:
    text = show.render([INTERFACE], lambda label: click.style(label, bold=True))
    assert text.startswith("\x1b[1minterface\x1b[0m: \x1b[1msite-a\x1b[0m\n  \x1b[1mpublic key\x1b[0m: ")
    assert click.unstyle(text) == TEXT


def test_the_schema_has_the_keys_of_version_1() -> None:
    value = msgspec.to_builtins(show.Show(interfaces=[INTERFACE]))
    assert value["version"] == 1
    (interface,) = value["interfaces"]
    assert interface.keys() >= {"name", "public_key", "engine", "workers", "mtu", "listen", "peers", "drops"}
    assert interface["drops"] == {"bad_tag": 3, "duplicate": 1100}
    phone, laptop = interface["peers"]
    assert (
        laptop.keys()
        >= {
            "name",
            "public_key",
            "session",
            "allowed_ips",
            "scheduler",
            "rx_bytes",
            "tx_bytes",
            "rx_packets",
            "tx_packets",
            "duplicates",
            "paths",
        }
    )  # fmt: skip
    assert laptop["session"] == {"state": "established", "age_s": 63.0, "rekeys": 1, "moved": False, "shards": 0}
    assert laptop["copies"] == "all"
    assert laptop["members"] == [
        {"shard": 4, "remotes": ["198.51.100.7:4000", "[2001:db8::7]:4000"], "weight": 255, "share": 0.75},
        {"shard": 8, "remotes": ["198.51.100.8:4000"], "weight": 85, "share": 0.25},
    ]
    assert phone["session"] == {"state": "initiating", "age_s": None, "rekeys": 0, "moved": False, "shards": 0}
    assert phone["copies"] is None
    assert laptop["paths"][0] == {
        "local": "192.0.2.10:51820",
        "remote": "[2001:db8::7]:4000",
        "shard": 0,
        "state": "usable",
        "carries": True,
        "reason": "carries data",
        "rtt_ms": 12.345,
        "jitter_ms": 0.5,
        "loss": 0.0125,
        "mtu": 1452,
        "rx_bytes": 3 << 20,
        "tx_bytes": 1536,
        "rx_packets": 2200,
        "tx_packets": 12,
        "tx_share": 0.625,
        "observed": "203.0.113.5:4001",
        "last_heard_s": 0.2,
    }


def test_what_is_encoded_can_be_decoded() -> None:
    assert msgspec.json.decode(msgspec.json.encode(INTERFACE), type=show.Interface) == INTERFACE


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "less than 1 second"),
        (1.9, "1 second"),
        (60, "1 minute"),
        (3661, "1 hour, 1 minute"),
        (90061, "1 day, 1 hour"),
        (172800 + 59, "2 days, 59 seconds"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert show.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1 << 30, "1.00 GiB"), (5 << 50, "5120.00 TiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert show.size(count) == text


def test_a_peer_that_another_machine_serves() -> None:
    def said(state: Literal["none", "established"], age_s: float | None) -> str:
        session = show.Session(state=state, age_s=age_s, moved=True)
        peer = msgspec.structs.replace(PEERS[1], session=session)
        text = show.render([msgspec.structs.replace(INTERFACE, peers=[peer])], str)
        return next(line.strip() for line in text.splitlines() if "session:" in line)

    assert said("none", None) == "session: none, another machine serves the peer"
    assert said("established", 63.0) == "session: established 1 minute, 3 seconds ago, handed over to another machine"
