"""The daemon's wiring, with everything around it played: the order of effects, and what must not end it."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Self

import msgspec
import pytest

from centipede import daemon as module
from centipede import engine as engines
from centipede.config import Config, parse_peer
from centipede.control.client import ControlClient
from centipede.control.messages import (
    MemberDrain,
    PeerAdd,
    PeerRemove,
    PeerSet,
    SessionExport,
    SessionOffer,
    Show,
    Stop,
)
from centipede.daemon import Daemon, Directories
from centipede.engine.contract import Engine
from centipede.errors import ControlError, HostError
from centipede.fields import Listen, parse_listen
from centipede.listening import Listening
from centipede.protocol.armour import Kind, armour
from centipede.protocol.counters import EngineCounters
from centipede.protocol.drops import DropReason
from centipede.protocol.effects import Effects, LogLine, Outgoing
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.identity import Identity
from centipede.protocol.spec import Network, PeerRecord, PeerSpec
from centipede.protocol.status import NodeStatus
from centipede.protocol.table import Event, ForwardingTable, Resumed, Run
from centipede.protocol.timing import Timing
from centipede.system.clone import CloneWatch
from centipede.system.links import LinkAddress, LinkPlan
from centipede.system.state import StateFile
from centipede.system.tun import Tun

OWN = Identity.from_seed(bytes([1]) * 32)
ALICE = Identity.from_seed(bytes([2]) * 32).public
BOB = Identity.from_seed(bytes([3]) * 32).public
LOCAL = Endpoint("192.0.2.1", 7)
REMOTE = Endpoint("198.51.100.7", 7)
TIMEOUT_S = 20.0


@dataclass
class Stage:
    """What the played parts share: a record of what happened, and what shall happen next."""

    happened: list[str] = field(default_factory=list)
    effects: list[Effects] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    answer: Effects | None = None
    """What the node wants done after an event."""
    node_fails: bool = False
    engine_fails: bool = False
    refused: str = ""
    """The part of the host that refuses."""
    addresses: list[LinkAddress] = field(default_factory=lambda: [LinkAddress("eth0", 2, ip_address(LOCAL.host))])
    wake: Callable[[], None] = lambda: None

    def note(self, text: str) -> None:
        self.happened.append(text)


class PlayedNode:
    """A node that gives the effects the stage has for it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def add_peer(self, spec: PeerSpec, record: PeerRecord | None, now: float) -> int:
        self.stage.note(f"add {spec.name} {record.floor if record else None}")
        return 0

    def remove_peer(self, public_key: object, now: float) -> None:
        self.stage.note("remove peer")

    def replace_peer(self, spec: PeerSpec, now: float) -> None:
        self.stage.note(f"replace {spec.name}")

    def fence(self, now: float) -> None:
        self.stage.note("fence")
        if self.stage.answer:
            self.stage.effects.append(self.stage.answer)

    def set_locals(self, locals_: Sequence[Endpoint], now: float, chosen: Sequence[Endpoint]) -> None:
        self.stage.note(f"locals {' '.join(map(str, locals_))}")

    def set_endpoints(self, public_key: object, endpoints: Sequence[Endpoint], now: float) -> None:
        self.stage.note(f"endpoints {' '.join(map(str, endpoints))}")

    def set_tunnelled(self, networks: Iterable[Network], now: float) -> None:
        self.stage.note(f"tunnelled {' '.join(map(str, networks))}")

    def hurry(self, now: float) -> None:
        self.stage.note("hurry")

    def seek(self, public_key: object, now: float) -> None:
        self.stage.note("seek")

    def observe(self, counters: EngineCounters) -> None:
        self.stage.note("observe")

    def receive(self, event: Event, now: float, wall_ns: int) -> None:
        self.stage.note(f"receive {type(event).__name__}")
        if self.stage.node_fails:
            raise RuntimeError("played")
        if self.stage.answer:
            self.stage.effects.append(self.stage.answer)

    def handle_timer(self, now: float, wall_ns: int) -> None:
        self.stage.note("timer")

    def close(self, now: float) -> None:
        self.stage.note("bye")

    def take_effects(self) -> Effects:
        return self.stage.effects.pop(0) if self.stage.effects else Effects()

    def status(self, now: float) -> NodeStatus:
        return NodeStatus(OWN.public, (LOCAL,), (), {DropReason.BAD_TAG: 3, DropReason.NO_ROUTE: 0})


class PlayedEngine(Engine):
    """An engine without workers."""

    name = "python"
    workers = 1
    details: Mapping[str, str] = {}

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK)
        stage.wake = lambda: os.eventfd_write(self._event_fd, 1)

    @property
    def event_fd(self) -> int:
        return self._event_fd

    def start(self) -> None:
        self.stage.note("start")

    def close(self) -> None:
        self.stage.note("engine closed")
        os.close(self._event_fd)

    def add_local(self, local: Endpoint, fds: Sequence[int]) -> None:
        self.stage.note(f"+{local}")

    def remove_local(self, local: Endpoint) -> None:
        self.stage.note(f"-{local}")

    def apply(self, table: ForwardingTable) -> None:
        self.stage.note(f"table {table.generation}")

    def send(
        self, local: Endpoint, remote: Endpoint, datagram: bytes, *, dont_fragment: bool = False
    ) -> DropReason | None:
        self.stage.note(f"send {local} {remote} {datagram!r}{' whole' * dont_fragment}")
        return DropReason.SEND_UNREACHABLE

    def inject(self, datagram: bytes) -> DropReason | None:
        self.stage.note(f"inject {datagram!r}")
        return None

    def events(self) -> list[Event]:
        try:
            os.eventfd_read(self._event_fd)
        except BlockingIOError:
            return []
        events, self.stage.events = self.stage.events, []
        return events

    def counters(self) -> EngineCounters:
        return EngineCounters()


class PlayedLinks:
    """A host's netlink."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stage.note("links closed")

    def addresses(self) -> tuple[LinkAddress, ...]:
        return tuple(self.stage.addresses)

    def exists(self, name: str) -> bool:
        return True

    def configure(self, name: str, plan: LinkPlan, previous: LinkPlan | None = None) -> None:
        if self.stage.refused == "links":
            raise HostError("the route to 10.0.0.0/8 exists already")
        self.stage.note(f"configure {name} {plan.mtu} {' '.join(map(str, plan.routes))}".rstrip())


class PlayedResolver:
    """A resolver that never answers, without the thread of a real one, which may outlive its daemon."""

    def __init__(self) -> None:
        self._event = os.eventfd(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._event)

    def fileno(self) -> int:
        return self._event

    def ask(self, host: str, port: int) -> None:
        pass


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()

    def open_tun(name: str, queues: int, *, vnet_hdr: bool) -> Tun:
        if stage.refused == "tun":
            raise HostError("/dev/net/tun is missing")
        return Tun(name, (os.eventfd(0),), vnet_hdr, frozenset())

    def create(tun: engines.TunQueues) -> Engine:
        if stage.engine_fails:
            raise RuntimeError("played")
        for fd in tun.fds:
            os.close(fd)
        return PlayedEngine(stage)

    def open_sockets(local: Endpoint, count: int, *, device: str | None, mark: int) -> tuple[int, ...]:
        if stage.refused == "sockets":
            raise HostError(f"UDP {local} is in use")
        return (0,) * count

    def listening(engine: Engine, listen: Sequence[Listen], tunnel: str, mark: int) -> Listening:
        return Listening(engine, listen, tunnel, mark, open_sockets)

    def node(
        identity: Identity,
        *,
        run: Run,
        spare: range | None,
        timing: Timing,
        random: Callable[[int], bytes],
        largest_bytes: int,
    ) -> PlayedNode:
        assert len(random(32)) == 32
        return PlayedNode(stage)

    monkeypatch.setattr(module, "open_tun", open_tun)
    monkeypatch.setattr(engines, "choose", lambda *_: engines.EngineKind("python", False, 1, create, "played"))
    monkeypatch.setattr(module, "Links", lambda: PlayedLinks(stage))
    monkeypatch.setattr(module, "Node", node)
    monkeypatch.setattr(module, "Resolver", PlayedResolver)
    monkeypatch.setattr(module, "Listening", listening)
    monkeypatch.setattr(module, "forbid_core_dumps", lambda: None)
    monkeypatch.setattr(module, "lock_memory", lambda: True)
    monkeypatch.setattr(module, "notify", lambda state: stage.note(state))
    return stage


def configured(listen: str = "eth0:7") -> Config:
    peer = parse_peer(
        {"public_key": ALICE.text, "name": "alice", "endpoints": [str(REMOTE)], "allowed_ips": ["10.9.0.0/16"]},
        "test",
        Path("/"),
    )
    return Config(
        file=Path("/etc/centipede/cpd-test.toml"),
        name="cpd-test",
        identity=OWN,
        addresses=(ip_interface("10.7.0.1/24"),),
        listen=(parse_listen(listen),),
        mtu=None,
        engine="auto",
        workers=None,
        peers=(peer,),
        timing=Timing(),
    )


@contextmanager
def user(directory: Path, act: Callable[[ControlClient], None]) -> Iterator[None]:
    """Somebody at the command line, while the daemon has the main thread. Stops the daemon in the end."""
    failure: list[BaseException] = []

    def body() -> None:
        try:
            with ControlClient(directory, "cpd-test", TIMEOUT_S) as client:
                try:
                    act(client)
                finally:
                    client.request(Stop())
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            failure.append(error)

    thread = threading.Thread(target=body)
    yield_to: Callable[[], None] = thread.start
    USERS.append(yield_to)
    try:
        yield
    finally:
        thread.join(TIMEOUT_S)
        USERS.clear()
    if failure:
        raise failure[0]


USERS: list[Callable[[], None]] = []


def play(directory: Path, act: Callable[[ControlClient], None], config: Config | None = None) -> None:
    """Run the daemon; ``act`` is the user, from when the tunnel is up."""
    with user(directory, act):
        Daemon(config or configured(), Directories(directory, directory)).run(lambda: USERS[0]())


def test_coming_up_and_going_down(stage: Stage, tmp_path: Path) -> None:
    stage.effects = [Effects(table=ForwardingTable(1, Run()))]

    def act(client: ControlClient) -> None:
        shown = msgspec.json.decode(client.request(Show()))
        assert (shown["name"], shown["engine"], shown["listen"]) == ("cpd-test", "python", ["192.0.2.1:7"])
        assert shown["drops"] == {"bad_tag": 3}

    play(tmp_path, act)
    assert [each for each in stage.happened if each != "observe"] == [
        "configure cpd-test 1420 10.9.0.0/16",
        "+192.0.2.1:7",
        "tunnelled 10.7.0.0/24",
        "locals 192.0.2.1:7",
        "add alice None",
        "endpoints 198.51.100.7:7",
        "start",
        "table 1",
        "READY=1",
        "STOPPING=1",
        "bye",
        "links closed",
        "engine closed",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_may_be_a_copy_begins_anew(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kernel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.setblocking(False)
    monkeypatch.setattr(module, "CloneWatch", lambda: CloneWatch(events=lambda: theirs))

    def act(client: ControlClient) -> None:
        stage.answer = Effects(table=ForwardingTable(2, Run()))
        kernel.send(b"change@/devices/x\0NEW_VMGENID=1\0")
        while "fence" not in stage.happened:
            client.request(Show())

    with kernel:
        play(tmp_path, act)
    happened = [each for each in stage.happened if each != "observe"]
    begin = happened.index("fence")
    assert happened[begin : begin + 3] == ["fence", "table 2", "endpoints 198.51.100.7:7"]
    assert "restored from a snapshot, or cloned: all sessions begin anew" in caplog.text


def test_effects_are_carried_out_in_their_order(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, "centipede")
    monkeypatch.setattr(
        logging.getLogger("centipede.daemon"), "log", lambda level, *text: stage.note(f"log {level} {text[-1]}")
    )
    monkeypatch.setattr(StateFile, "save", lambda self, records: stage.note(f"save {len(tuple(records))}"))
    everything = Effects(
        table=ForwardingTable(2, Run()),
        records=(PeerRecord(ALICE),),
        mtu=1340,
        datagrams=(Outgoing(LOCAL, REMOTE, b"x"), Outgoing(LOCAL, REMOTE, b"y", dont_fragment=True)),
        log=(LogLine("warning", "a word"),),
        next_timer=0.0,
    )

    def act(client: ControlClient) -> None:
        stage.answer = everything
        stage.events = [Resumed(1, 0.0)]
        stage.wake()
        while "timer" not in stage.happened:
            client.request(Show())

    play(tmp_path, act)
    begin = stage.happened.index("receive Resumed")
    assert stage.happened[begin - 1] == "observe"
    happened = [each for each in stage.happened[begin:] if each != "observe"]
    expected = [
        "receive Resumed",
        "table 2",
        "save 1",
        "configure cpd-test 1340 10.9.0.0/16",
        "send 192.0.2.1:7 198.51.100.7:7 b'x'",
        "send 192.0.2.1:7 198.51.100.7:7 b'y' whole",
        "log 30 a word",
        "timer",
    ]
    assert happened[: len(expected)] == expected


def test_nobody_has_an_export_before_it_is_on_disk_that_the_session_moved(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(node: PlayedNode, *_: object, move: bool) -> bytes:
        assert move
        node.stage.effects.append(Effects(records=(PeerRecord(ALICE, moved=True),)))
        return b"the session"

    def told(kind: Kind, data: bytes) -> str:
        stage.note(f"tell {data.decode()}")
        return armour(kind, data)

    monkeypatch.setattr(PlayedNode, "export", export, raising=False)
    monkeypatch.setattr("centipede.daemon.armour", told)
    monkeypatch.setattr(StateFile, "save", lambda self, records: stage.note(f"save {len(tuple(records))}"))

    def act(client: ControlClient) -> None:
        client.request(SessionExport(peer="alice", offer=armour("offer", b"x")))

    play(tmp_path, act)
    assert stage.happened.index("save 1") < stage.happened.index("tell the session")


def test_nothing_moves_if_that_could_not_be_remembered(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(node: PlayedNode, *_: object, move: bool) -> bytes:
        assert not move, "its shards would be gone"
        return b"the session"

    monkeypatch.setattr(PlayedNode, "export", export, raising=False)
    monkeypatch.setattr(StateFile, "save", lambda *_: "/var/lib/x.json: No space left on device")

    def act(client: ControlClient) -> None:
        with pytest.raises(ControlError, match=r"could not be remembered: /var/lib/x.json: No space left on device"):
            client.request(SessionExport(peer="alice", offer=armour("offer", b"x")))
        client.request(SessionExport(peer="alice", offer=armour("offer", b"x"), join=True))

    play(tmp_path, act)


def test_a_session_stays_if_in_the_end_it_could_not_be_remembered(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(node: PlayedNode, *_: object, move: bool) -> bytes:
        node.stage.effects.append(Effects(records=(PeerRecord(ALICE, moved=True),)))
        return b"the session"

    monkeypatch.setattr(PlayedNode, "export", export, raising=False)
    monkeypatch.setattr(StateFile, "save", lambda _, records: "/x: Input/output error" if tuple(records) else None)

    def act(client: ControlClient) -> None:
        with pytest.raises(ControlError, match=r"could not be remembered: /x: Input/output error"):
            client.request(SessionExport(peer="alice", offer=armour("offer", b"x")))

    play(tmp_path, act)
    assert "seek" in stage.happened


def test_nobody_is_offered_a_machine_that_drains(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlayedNode, "set_draining", lambda *_: None, raising=False)

    def act(client: ControlClient) -> None:
        client.request(MemberDrain(draining=True))
        with pytest.raises(ControlError, match=r"is draining, .* run 'centipede member .* undrain' first"):
            client.request(SessionOffer())

    play(tmp_path, act)


def test_a_failing_node_ends_nothing(stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage.node_fails = True

    def act(client: ControlClient) -> None:
        stage.events = [Resumed(1, 0.0), Resumed(2, 0.0)]
        stage.wake()
        while stage.happened.count("receive Resumed") < 2:
            client.request(Show())

    play(tmp_path, act)
    assert caplog.text.count("defect: the node failed at an event") == 2


def test_a_failing_request_ends_nothing(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("played")

    monkeypatch.setattr(PlayedNode, "status", fail)

    def act(client: ControlClient) -> None:
        with pytest.raises(ControlError, match="the daemon failed at this request; its log has the details"):
            client.request(Show())

    play(tmp_path, act)
    assert "defect: a request failed" in caplog.text


def descriptors() -> set[tuple[str, str]]:
    """What this process has open: numbers, and what is behind them."""
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add((fd.name, str(fd.readlink())))
    return found


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        ("tun", "/etc/centipede/cpd-test.toml: /dev/net/tun is missing"),
        ("links", "/etc/centipede/cpd-test.toml: the route to 10.0.0.0/8 exists already"),
        ("sockets", r"/etc/centipede/cpd-test.toml: \[interface\]: listen: UDP 192.0.2.1:7 is in use"),
    ],
)
def test_what_the_host_refuses_leaves_nothing_behind(stage: Stage, tmp_path: Path, refused: str, sentence: str) -> None:
    stage.refused = refused
    before = descriptors()
    with pytest.raises(HostError, match=sentence):
        Daemon(configured(), Directories(tmp_path, tmp_path)).run(lambda: pytest.fail("it is not up"))
    assert list(tmp_path.iterdir()) == []
    assert descriptors() <= before
    assert ("engine closed" in stage.happened) == (refused != "tun")


def test_an_engine_that_cannot_be_created_gives_the_interface_back(stage: Stage, tmp_path: Path) -> None:
    stage.engine_fails = True
    before = descriptors()
    with pytest.raises(RuntimeError, match="played"):
        Daemon(configured(), Directories(tmp_path, tmp_path)).run(lambda: pytest.fail("it is not up"))
    assert descriptors() <= before


def test_it_is_said_where_a_peer_is_tried(stage: Stage, tmp_path: Path) -> None:
    def act(client: ControlClient) -> None:
        def point(*endpoints: str) -> list[str]:
            answer = client.request(PeerSet(peer="alice", table={"endpoints": list(endpoints)}))
            return msgspec.json.decode(answer, type=list[str])

        assert point("203.0.113.9:5", "alice.example:6", "[2001:db8::1]:7") == [
            "peer alice changed",
            "trying peer alice at 203.0.113.9:5",
            "trying peer alice at alice.example:6",
            "trying peer alice at [2001:db8::1]:7, once there is a local IPv6 address",
        ]
        assert point("203.0.113.9:5")[1:] == ["trying peer alice at 203.0.113.9:5"]
        assert point("203.0.113.9:5") == ["trying peer alice at 203.0.113.9:5"]  # the other end may be ready only now

    play(tmp_path, act)
    assert stage.happened.count("seek") == 3


def test_peers_change_while_it_runs(stage: Stage, tmp_path: Path) -> None:
    def act(client: ControlClient) -> None:
        table = {"public_key": BOB.text, "name": "bob", "allowed_ips": ["10.8.0.0/16"], "endpoints": ["203.0.113.9:5"]}
        assert msgspec.json.decode(client.request(PeerAdd(table=table))) == ["peer bob added"]
        with pytest.raises(ControlError, match=r"cpd-test: \[\[peer\]\] bob: public_key: peer bob has the same"):
            client.request(PeerAdd(table=table))
        changed = client.request(PeerSet(peer=BOB.text, table={"allowed_ips": ["10.6.0.0/16"]}))
        assert msgspec.json.decode(changed) == ["peer bob changed"]
        reset = client.request(PeerSet(peer="alice", table={}, reset_floor=True))
        assert msgspec.json.decode(reset) == ["floor of peer alice reset"]
        assert msgspec.json.decode(client.request(PeerRemove(peer="bob"))) == ["peer bob removed"]
        with pytest.raises(ControlError, match="there is no peer 'bob'; there are: alice"):
            client.request(PeerRemove(peer="bob"))
        with pytest.raises(ControlError, match="copies: 0 is less than 1"):
            client.request(PeerSet(peer="alice", table={"copies": 0}))

    state = tmp_path / "cpd-test.json"
    state.write_text(
        f'{{"version":1,"identity":"{OWN.public.text}","peers":{{"{ALICE.text}":{{"last_used":5,"floor":6}}}}}}'
    )
    play(tmp_path, act)
    happened = [each for each in stage.happened if each != "observe"]
    assert happened[happened.index("READY=1") + 1 : happened.index("STOPPING=1")] == [
        "configure cpd-test 1420 10.8.0.0/16 10.9.0.0/16",
        "add bob None",
        "endpoints 203.0.113.9:5",
        "configure cpd-test 1420 10.6.0.0/16 10.9.0.0/16",
        "replace bob",
        "endpoints 203.0.113.9:5",
        "configure cpd-test 1420 10.6.0.0/16 10.9.0.0/16",
        "remove peer",
        "add alice 0",
        "endpoints 198.51.100.7:7",
        "configure cpd-test 1420 10.9.0.0/16",
        "remove peer",
    ]
    assert '"floor": 0' in state.read_text()
    assert '"last_used": 5' in state.read_text()


def test_a_change_the_host_refuses_changes_nothing(stage: Stage, tmp_path: Path) -> None:
    def act(client: ControlClient) -> None:
        stage.refused = "links"
        with pytest.raises(ControlError, match=r"the route to 10.0.0.0/8 exists already"):
            client.request(PeerAdd(table={"public_key": BOB.text, "allowed_ips": ["10.0.0.0/8"]}))
        stage.refused = ""
        assert not any("add peer" in each for each in stage.happened)
        assert msgspec.json.decode(client.request(PeerRemove(peer="alice"))) == ["peer alice removed"]

    play(tmp_path, act)
