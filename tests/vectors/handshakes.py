"""Vectors of keys and handshakes: keys.json and handshake.json."""

from base64 import b64encode
from collections.abc import Iterable
from typing import Any, NamedTuple

from tests.vectors.packets import session_packet
from tests.vectors.primitives import (
    Case,
    L,
    P,
    aead,
    ed25519_public,
    ed25519_sign,
    encode_point,
    fill,
    image,
    kdf,
    mac,
    multiply,
    recover_x,
    sha,
    u,
    x25519,
    x25519_public,
)


def keys() -> dict[str, Any]:
    def key(seed: bytes) -> Case:
        public = ed25519_public(seed)
        text = b64encode(public).decode()
        return {"seed": seed, "public": public, "text": text, "short": text[:8], "x25519": image(public)}

    def off_curve() -> Iterable[int]:
        return (y for y in range(2, 30) if recover_x(y, 0) is None)

    seeds = [bytes([i]) * 32 for i in (1, 2)] + [bytes(32), b"\xff" * 32] + [fill(f"seed {i}", 32) for i in range(4)]
    generator = next(
        p for y in range(2, 100) if (x := recover_x(y, 0)) and (p := multiply(L, (x, y))) and multiply(4, p) != (0, 1)
    )
    torsion = sorted(encode_point(multiply(i, generator)) for i in range(8))
    assert len(set(torsion)) == 8
    refused = [{"raw": raw, "why": "small order"} for raw in torsion]
    refused += [
        {"raw": (y | sign << 255).to_bytes(32, "little"), "why": "canonical"}
        for y in range(P, 2**255)
        for sign in (0, 1)
    ]
    # x = 0 with the sign of an odd x: another spelling of the points of order 1 and 2.
    refused += [{"raw": (y | 1 << 255).to_bytes(32, "little"), "why": "small order"} for y in (1, P - 1)]
    refused += [
        {"raw": (y | sign << 255).to_bytes(32, "little"), "why": "curve"} for y in off_curve() for sign in (0, 1)
    ]
    return {"accepted": [key(seed) for seed in seeds], "refused": refused}


PROTO = sha(b"Centipede v1 X25519 Ed25519 ChaCha20Poly1305 SHA256")
Z = bytes(12)


class End(NamedTuple):
    """What one side puts into a handshake."""

    seed: bytes
    ephemeral: bytes
    base: bytes
    shard: int = 0
    gap_10ms: int = 1000
    largest_inner: int = 1420
    features: int = 0
    k: int = 0

    @property
    def sid(self) -> bytes:
        return self.base + u(self.shard, 2)

    @property
    def params(self) -> bytes:
        return u(self.gap_10ms, 2) + u(self.largest_inner, 2) + u(self.features, 2) + u(self.k, 1) + b"\0"


class Transcript(NamedTuple):
    message: bytes
    chaining: bytes
    hash: bytes
    trace: Case


def mac1(receiver: bytes, covered: bytes) -> bytes:
    return mac(sha(b"Centipede v1 mac1", receiver), covered)[:16]


def initiate(
    i: End, responder: bytes, timestamp: int, *, signer: bytes | None = None, claimed: bytes | None = None
) -> Transcript:
    head = bytes.fromhex("8101000000000000")
    e = x25519_public(i.ephemeral)
    h1 = sha(sha(PROTO, responder), head, e)
    chaining, k1 = kdf(PROTO, x25519(i.ephemeral, image(responder)), 2)
    body = (claimed or ed25519_public(i.seed)) + u(timestamp, 8) + i.sid + i.params
    signature = ed25519_sign(signer or i.seed, b"Centipede v1 initiate\0" + h1 + body)
    c1 = aead(k1, Z, h1, body + signature)
    message = head + e + c1
    message += mac1(responder, message) + bytes(16)
    assert len(message) == 208
    h2 = sha(h1, c1)
    return Transcript(message, chaining, h2, {"h1": h1, "k1": k1, "body1": body, "sig_I": signature, "h2": h2})


def acknowledge(
    first: Transcript,
    i: End,
    r: End,
    timestamp: int,
    psk: bytes,
    *,
    signer: bytes | None = None,
    signed_for: bytes | None = None,
) -> Transcript:
    initiator = ed25519_public(i.seed)
    head = bytes.fromhex("8201000000000000")
    e = x25519_public(r.ephemeral)
    h3 = sha(first.hash, head, i.sid, e)
    chaining, k2 = kdf(first.chaining, x25519(r.ephemeral, x25519_public(i.ephemeral)) + psk, 2)
    body = u(timestamp, 8) + r.sid + r.params
    signature = ed25519_sign(signer or r.seed, b"Centipede v1 acknowledge\0" + h3 + (signed_for or initiator) + body)
    c2 = aead(k2, Z, h3, body + signature)
    message = head + i.sid + e + c2
    message += mac1(initiator, message)
    assert len(message) == 168
    h4 = sha(h3, c2)
    return Transcript(message, chaining, h4, {"h3": h3, "k2": k2, "body2": body, "sig_R": signature, "h4": h4})


def handshake_case(name: str, i: End, r: End, timestamp: int, psk: bytes) -> Case:
    first = initiate(i, ed25519_public(r.seed), timestamp)
    second = acknowledge(first, i, r, timestamp, psk)
    ir_data, ri_data, ir_control, ri_control = kdf(second.chaining, b"Centipede v1 keys\0" + second.hash, 4)
    return {
        "name": name,
        "initiator": i._asdict() | {"public": ed25519_public(i.seed)},
        "responder": r._asdict() | {"public": ed25519_public(r.seed)},
        "timestamp": timestamp,
        "psk": psk,
        "initiate": first.message,
        "initiate_sha256": sha(first.message),
        "digest": sha(first.message[:176]),
        "acknowledge": second.message,
        "acknowledge_sha256": sha(second.message),
        "trace": first.trace | second.trace,
        "keys": {"IR_data": ir_data, "RI_data": ri_data, "IR_control": ir_control, "RI_control": ri_control},
        "keepalive": session_packet(ir_data, 0, False, 0, r.base, r.shard, b""),
    }


def handshake() -> dict[str, Any]:
    zero = bytes(32)
    i = End(b"\1" * 32, b"\3" * 32, b"\x0a" * 6)
    r = End(b"\2" * 32, b"\4" * 32, b"\x0b" * 6)
    now = 1700000000000000000

    def end(label: str, shard: int, *params: int) -> End:
        return End(fill(label + " seed", 32), fill(label + " e", 32), fill(label + " base", 6), shard, *params)

    cases = [
        handshake_case("first", i, r, now, zero),
        handshake_case("preshared key", i, r, now, fill("psk", 32)),
        handshake_case("runs", end("a", 0, 50, 1280, 0, 1), end("b", 16, 2500, 8920, 0, 4), now + 1, zero),
        handshake_case(
            "greatest",
            end("c", 16382, 65535, 65535, 65535, 4),
            end("d", 16382, 65535, 65535, 65535, 4),
            2**64 - 1,
            b"\xff" * 32,
        ),
        handshake_case("least", end("e", 0, 0, 0, 0, 0), end("f", 0, 0, 0, 0, 0), 0, zero),
        handshake_case("roles swapped", r, i, now, zero),
    ]
    return {
        "cases": cases,
        "refused_initiates": refused_initiates(i, r, now),
        "refused_acknowledges": {
            "initiator": i._asdict(),
            "responder": ed25519_public(r.seed),
            "timestamp": now,
            "psk": zero,
            "cases": refused_acknowledges(i, r, now, zero),
        },
    }


def cookies() -> dict[str, Any]:
    """What a responder under load sends, and what the initiator makes of it."""
    i = End(b"\1" * 32, b"\3" * 32, b"\x0a" * 6)
    responder = ed25519_public(b"\2" * 32)
    first = initiate(i, responder, 1700000000000000000).message

    def case(name: str, address: bytes, port: int, endpoint: str) -> Case:
        secret, n = fill(name + " secret", 32), fill(name + " n", 16)
        cookie = mac(secret, address.ljust(16, b"\0") + u(port, 2))[:16]
        start = bytes.fromhex("8301000000000000") + first[176:192] + n
        sealed = aead(mac(sha(b"Centipede v1 cookie", responder), n + first[176:192]), Z, start, cookie)
        return {
            "name": name,
            "responder": responder,
            "secret": secret,
            "source": endpoint,
            "cookie": cookie,
            "n": n,
            "initiate": first,
            "message": start + sealed,
            "answer": first[:192] + mac(cookie, first[:192])[:16],
        }

    cases = [
        case("IPv4", bytes([192, 0, 2, 1]), 51820, "192.0.2.1:51820"),
        case("IPv6", bytes.fromhex("20010db8") + bytes(11) + b"\1", 1, "[2001:db8::1]:1"),
    ]
    good = cases[0]["message"]
    bits = [0, 64, 191, 192, 319, 320, 575]
    damaged = [bytes(b ^ (0x80 >> bit % 8 if bit // 8 == at else 0) for at, b in enumerate(good)) for bit in bits]
    return {"cases": cases, "damaged": [{"message": m} for m in damaged]}


def refused_initiates(i: End, r: End, now: int) -> list[Case]:
    responder, other = ed25519_public(r.seed), ed25519_public(b"\5" * 32)
    good = initiate(i, responder, now).message

    def with_mac1(covered: bytes) -> bytes:
        return covered + mac1(responder, covered) + bytes(16)

    bad_version, reserved = bytearray(good), bytearray(good)
    bad_version[1], reserved[7] = 2, 1
    messages = [
        ("too short", "handshake_malformed", good[:-1]),
        ("too long", "handshake_malformed", good + b"\0"),
        ("version 2", "handshake_malformed", with_mac1(bytes(bad_version[:176]))),
        ("reserved byte", "handshake_malformed", with_mac1(bytes(reserved[:176]))),
        ("mac1 of another key", "bad_mac1", good[:176] + mac1(other, good[:176]) + bytes(16)),
        ("ephemeral is zero", "initiate_undecryptable", with_mac1(good[:8] + bytes(32) + good[40:176])),
        ("sealed to another key", "initiate_undecryptable", with_mac1(initiate(i, other, now).message[:176])),
        ("the responder's own identity", "unknown_identity", initiate(i, responder, now, claimed=responder).message),
        ("signed by another", "bad_signature", initiate(i, responder, now, signer=b"\5" * 32).message),
        ("no such shard", "handshake_malformed", initiate(i._replace(shard=0x3FFF), responder, now).message),
        ("k is 5", "handshake_malformed", initiate(i._replace(k=5), responder, now).message),
    ]
    return [{"name": n, "responder_seed": r.seed, "reason": reason, "initiate": m} for n, reason, m in messages]


def refused_acknowledges(i: End, r: End, now: int, psk: bytes) -> list[Case]:
    first = initiate(i, ed25519_public(r.seed), now)
    initiator = ed25519_public(i.seed)
    good = acknowledge(first, i, r, now, psk).message

    def with_mac1(covered: bytes) -> bytes:
        return covered + mac1(initiator, covered)

    messages = [
        ("too short", "handshake_malformed", good[:-1]),
        ("too long", "handshake_malformed", good + b"\0"),
        ("type 4", "handshake_malformed", with_mac1(b"\x84" + good[1:152])),
        ("mac1 of another key", "bad_mac1", good[:152] + mac1(ed25519_public(r.seed), good[:152])),
        ("another session id", "unknown_attempt", with_mac1(good[:8] + b"\x0c" * 6 + good[14:152])),
        ("ephemeral is zero", "acknowledge_undecryptable", with_mac1(good[:16] + bytes(32) + good[48:152])),
        ("another psk", "acknowledge_undecryptable", acknowledge(first, i, r, now, fill("psk", 32)).message),
        ("another timestamp", "acknowledge_undecryptable", acknowledge(first, i, r, now + 1, psk).message),
        ("signed by another", "bad_signature", acknowledge(first, i, r, now, psk, signer=b"\5" * 32).message),
        ("signed for another", "bad_signature", acknowledge(first, i, r, now, psk, signed_for=bytes(32)).message),
        ("no such shard", "handshake_malformed", acknowledge(first, i, r._replace(shard=0xFFFF), now, psk).message),
        ("k is 255", "handshake_malformed", acknowledge(first, i, r._replace(k=255), now, psk).message),
    ]
    return [{"name": n, "reason": reason, "acknowledge": m} for n, reason, m in messages]
