"""The committed vectors are what the generator writes, and our code agrees with them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from centipede.errors import HandoverError
from centipede.protocol.armour import armour, unarmour
from centipede.protocol.cookie import answered_mac1, mac1_of, make_cookie, open_cookie, seal_cookie, with_mac2
from centipede.protocol.drops import DropReason, Refused
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.export import Export
from centipede.protocol.grant import Grant
from centipede.protocol.handover import HandedSession, Handover
from centipede.protocol.handshake import Attempt, Params, SessionKeys, initiate_digest, open_initiate
from centipede.protocol.identity import Identity, PublicKey
from centipede.protocol.inner import finish_inner
from centipede.protocol.offer import Offer
from centipede.protocol.session import Header, Opener, Sealer, parse_header
from centipede.protocol.table import Run
from centipede.protocol.window import Verdict, Window
from centipede.protocol.wire import Addresses, Control, Heartbeat, Observed, Parted, UnknownControl, decode_control

HERE = Path(__file__).parent
Case = dict[str, Any]


def load(name: str) -> Any:
    return json.loads((HERE / f"{name}.json").read_text(encoding="ascii"))


def named(cases: list[Case]) -> list[Any]:
    return [pytest.param(case, id=case.get("name", str(number))) for number, case in enumerate(cases)]


KEYS = load("keys")
HANDSHAKE = load("handshake")
COOKIE = load("cookie")
SESSION = load("session")
CONTROL = load("control")
INNER = load("inner")
WINDOW = load("window")
HANDOVER = load("handover")


def test_the_generator_writes_these_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "tests.vectors.generate", tmp_path], check=True, cwd=HERE.parents[1])
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_text() for path in HERE.glob("*.json")}


@pytest.mark.parametrize("case", named(KEYS["accepted"]))
def test_key(case: Case) -> None:
    identity = Identity.from_seed(bytes.fromhex(case["seed"]))
    public = PublicKey.from_raw(bytes.fromhex(case["public"]))
    assert identity.public == public == PublicKey.from_text(case["text"])
    assert (public.text, public.short, public.x25519.hex()) == (case["text"], case["short"], case["x25519"])


@pytest.mark.parametrize("case", named(KEYS["refused"]))
def test_refused_key(case: Case) -> None:
    with pytest.raises(ValueError, match=case["why"]):
        PublicKey.from_raw(bytes.fromhex(case["raw"]))


def params(end: Case) -> Params:
    return Params(end["gap_10ms"] / 100, end["largest_inner"], end["features"], end["k"])


def given(end: Case) -> dict[str, Any]:
    """What one end adds to its message, as our functions take it."""
    return {
        "base": bytes.fromhex(end["base"]),
        "shard": end["shard"],
        "params": params(end),
        "ephemeral": bytes.fromhex(end["ephemeral"]),
    }


@pytest.mark.parametrize("case", named(HANDSHAKE["cases"]))
def test_handshake(case: Case) -> None:
    left, right = case["initiator"], case["responder"]
    initiator, responder = (Identity.from_seed(bytes.fromhex(end["seed"])) for end in (left, right))
    psk = bytes.fromhex(case["psk"])
    attempt = Attempt.from_ephemeral(initiator, responder.public, psk, timestamp=case["timestamp"], **given(left))
    assert attempt.message.hex() == case["initiate"]
    assert initiate_digest(attempt.message).hex() == case["digest"]

    initiate = open_initiate(responder, attempt.message)
    initiate.verify()
    assert initiate.remote == initiator.public
    assert (initiate.timestamp, initiate.base.hex(), initiate.shard) == (case["timestamp"], left["base"], left["shard"])
    assert initiate.params == params(left)
    message, keys = initiate.acknowledge_with(responder, psk, **given(right))
    assert message.hex() == case["acknowledge"]

    finished = attempt.finish(message)
    assert (finished.base.hex(), finished.shard, finished.params) == (right["base"], right["shard"], params(right))
    expected = {name: bytes.fromhex(key) for name, key in case["keys"].items()}
    assert (finished.keys.tx_data, finished.keys.rx_data) == (expected["IR_data"], expected["RI_data"])
    assert (finished.keys.tx_control, finished.keys.rx_control) == (expected["IR_control"], expected["RI_control"])
    assert (keys.tx_data, keys.rx_data) == (expected["RI_data"], expected["IR_data"])
    assert (keys.tx_control, keys.rx_control) == (expected["RI_control"], expected["IR_control"])
    keepalive = Sealer(keys.rx_data).seal(0, source=0, base=finished.base, shard=finished.shard, plaintext=b"")
    assert keepalive.hex() == case["keepalive"]


@pytest.mark.parametrize("case", named(HANDSHAKE["refused_initiates"]))
def test_refused_initiate(case: Case) -> None:
    responder = Identity.from_seed(bytes.fromhex(case["responder_seed"]))
    with pytest.raises(Refused) as caught:
        open_initiate(responder, bytes.fromhex(case["initiate"])).verify()
    assert caught.value.reason.label == case["reason"]


@pytest.mark.parametrize("case", named(HANDSHAKE["refused_acknowledges"]["cases"]))
def test_refused_acknowledge(case: Case) -> None:
    setting = HANDSHAKE["refused_acknowledges"]
    end = setting["initiator"]
    attempt = Attempt.from_ephemeral(
        Identity.from_seed(bytes.fromhex(end["seed"])),
        PublicKey.from_raw(bytes.fromhex(setting["responder"])),
        bytes.fromhex(setting["psk"]),
        timestamp=setting["timestamp"],
        **given(end),
    )
    with pytest.raises(Refused) as caught:
        attempt.finish(bytes.fromhex(case["acknowledge"]))
    assert caught.value.reason.label == case["reason"]


@pytest.mark.parametrize("case", named(COOKIE["cases"]))
def test_cookie(case: Case) -> None:
    responder = PublicKey.from_raw(bytes.fromhex(case["responder"]))
    initiate, cookie, message = (bytes.fromhex(case[name]) for name in ("initiate", "cookie", "message"))
    assert make_cookie(bytes.fromhex(case["secret"]), Endpoint.parse(case["source"])) == cookie
    assert seal_cookie(responder, initiate, cookie, bytes.fromhex(case["n"])) == message
    assert answered_mac1(message) == mac1_of(initiate)
    assert open_cookie(responder, message) == cookie
    assert with_mac2(initiate, cookie).hex() == case["answer"]


@pytest.mark.parametrize("case", named(COOKIE["damaged"]))
def test_damaged_cookie(case: Case) -> None:
    message = bytes.fromhex(case["message"])
    good = COOKIE["cases"][0]
    if answered_mac1(message) == mac1_of(bytes.fromhex(good["initiate"])):
        with pytest.raises(Refused) as caught:
            open_cookie(PublicKey.from_raw(bytes.fromhex(good["responder"])), message)
        assert caught.value.reason is DropReason.COOKIE_UNDECRYPTABLE


@pytest.mark.parametrize("case", named(SESSION["cases"]))
def test_session_packet(case: Case) -> None:
    key, base, plaintext, datagram = (bytes.fromhex(case[name]) for name in ("key", "base", "plaintext", "datagram"))
    header = Header(case["control"], case["source"], case["counter"], base, case["shard"])
    sealed = Sealer(key).seal(
        header.counter,
        source=header.source,
        base=base,
        shard=header.shard,
        plaintext=plaintext,
        control=header.control,
    )
    assert sealed == datagram
    assert parse_header(datagram) == header
    assert Opener(key).open(datagram) == plaintext


def test_intact_session_packet() -> None:
    damaged = SESSION["damaged"]
    assert Opener(bytes.fromhex(damaged["key"])).open(bytes.fromhex(damaged["intact"])) is not None


@pytest.mark.parametrize("case", named(SESSION["damaged"]["cases"]))
def test_damaged_session_packet(case: Case) -> None:
    key = bytes.fromhex(SESSION["damaged"]["key"])
    assert Opener(key).open(bytes.fromhex(case["datagram"])) is None


def message(case: Case) -> Control:
    """The message a case describes."""
    if case["type"] == "addresses":
        return Addresses(tuple(Endpoint.parse(text) for text in case["endpoints"]))
    if case["type"] == "observed":
        return Observed(Endpoint.parse(case["endpoint"]))
    if case["type"] == "parted":
        return Parted(tuple(case["paths"]))
    if case["type"] == "unknown":
        return UnknownControl(case["number"])
    flags = case["flags"]
    return Heartbeat(
        challenge=bytes.fromhex(case["challenge"]),
        response=bytes.fromhex(case["response"]) if case["response"] is not None else None,
        next_in_s=case["next_in_10ms"] / 100,
        t1_us=case["t1"],
        echo_us=case["echo"],
        arrival_us=case["arrival"],
        received=case["received"],
        sent=case["sent"],
        received_kib=case["received_kib"],
        largest_bytes=case["max_len"],
        path=case["path"],
        k=case["k"],
        weight=case["weight"],
        answer_now=bool(flags & 0x02),
        aggregating=bool(flags & 0x04),
        draining=bool(flags & 0x08),
        bye=bool(flags & 0x10),
        probe=bool(flags & 0x20),
        padding_bytes=case["padding"],
    )


@pytest.mark.parametrize("case", named(CONTROL["cases"]))
def test_control_message(case: Case) -> None:
    value = message(case)
    assert not isinstance(value, UnknownControl)
    assert value.encode().hex() == case["plaintext"]
    assert decode_control(bytes.fromhex(case["plaintext"])) == value


@pytest.mark.parametrize("case", named(CONTROL["tolerated"]))
def test_tolerated_control_message(case: Case) -> None:
    assert decode_control(bytes.fromhex(case["plaintext"])) == message(case)


@pytest.mark.parametrize("plaintext", CONTROL["malformed"])
def test_malformed_control_message(plaintext: str) -> None:
    with pytest.raises(Refused) as caught:
        decode_control(bytes.fromhex(plaintext))
    assert caught.value.reason is DropReason.CONTROL_MALFORMED


@pytest.mark.parametrize("case", named(INNER["cases"]))
def test_inner_packet(case: Case) -> None:
    outcome = finish_inner(bytes.fromhex(case["plaintext"]))
    if "packet" in case:
        assert outcome == bytes.fromhex(case["packet"])
    else:
        assert isinstance(outcome, DropReason)
        assert outcome.label == case["reason"]


@pytest.mark.parametrize("case", named(WINDOW["cases"]))
def test_window(case: Case) -> None:
    window = Window(case["size"])
    for counter, name in case["steps"]:
        verdict = Verdict[name.upper()]
        assert (counter, window.test(counter)) == (counter, verdict)
        assert (counter, window.insert(counter)) == (counter, verdict)


def handed(case: Case, k: int) -> HandedSession:
    return HandedSession(
        grant=Grant(Run(case["shard"], k), case["first"], case["end"]),
        ours=bool(case["ours"]),
        timestamp=case["timestamp"],
        base=bytes.fromhex(case["base"]),
        peer_base=bytes.fromhex(case["peer_base"]),
        peer_run=Run(case["peer_shard"], case["peer_params"]["k"]),
        age_s=case["age_ms"] / 1000,
        idle_s=case["idle_ms"] / 1000,
        params=params(case["params"]),
        peer_params=params(case["peer_params"]),
        keys=SessionKeys(*map(bytes.fromhex, case["keys"].values())),
    )


@pytest.mark.parametrize("case", named(HANDOVER["cases"]))
def test_handover(case: Case) -> None:
    identity = Identity.from_seed(bytes.fromhex(case["identity"]))
    one_time, secret = bytes.fromhex(case["one_time"]), bytes.fromhex(case["export_one_time"])
    offer, export = bytes.fromhex(case["offer"]), bytes.fromhex(case["export"])
    decoded = Offer.decode(offer)
    assert (decoded.k, decoded.import_id.hex(), decoded.importer) == (case["k"], case["import_id"], identity.public)
    assert decoded.addresses == tuple(map(Endpoint.parse, case["found"]))
    assert decoded.encode(identity) == offer
    assert len(offer) == 152 + 20 * len(case["found"])
    assert Export.open(export, offer, one_time, identity.public) == Export(
        Handover(
            identity.public,
            PublicKey.from_raw(bytes.fromhex(case["peer"])),
            case["floor"],
            case["last_used"],
            tuple(map(Endpoint.parse, case["addresses"])),
            tuple(handed(each, case["k"]) for each in case["sessions"]),
        ),
        case["move"],
    )
    assert Export.open(export, offer, one_time, identity.public).seal(offer, identity, secret) == export
    assert (armour("offer", offer), armour("export", export)) == (case["offer_text"], case["export_text"])
    assert (unarmour("offer", case["offer_text"]), unarmour("export", case["export_text"])) == (offer, export)


@pytest.mark.parametrize("case", named(HANDOVER["refused_exports"]))
def test_refused_export(case: Case) -> None:
    good = HANDOVER["cases"][0]
    identity = Identity.from_seed(bytes.fromhex(good["identity"]))
    offer, one_time = bytes.fromhex(good["offer"]), bytes.fromhex(good["one_time"])
    with pytest.raises(HandoverError):
        Export.open(bytes.fromhex(case["export"]), offer, one_time, identity.public)


@pytest.mark.parametrize("case", named(HANDOVER["refused_offers"]))
def test_refused_offer(case: Case) -> None:
    with pytest.raises(HandoverError):
        Offer.decode(bytes.fromhex(case["offer"]))
