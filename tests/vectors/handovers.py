"""Vectors of offers and exports: handover.json."""

from base64 import b64encode
from typing import Any

from tests.vectors.handshakes import Z
from tests.vectors.primitives import Case, aead, ed25519_public, ed25519_sign, fill, kdf, sha, u, x25519, x25519_public

SEED, PEER = b"\1" * 32, b"\2" * 32


def address(endpoint: str) -> bytes:
    host, _, port = endpoint.rpartition(":")
    if host.startswith("["):
        groups = host[1:-1].split("::")
        raw = b"".join(u(int(group, 16), 2) for group in groups[0].split(":"))
        raw += bytes(14 - len(raw)) + u(int(groups[1], 16), 2)
        return b"\6\0" + u(int(port), 2) + raw
    return b"\4\0" + u(int(port), 2) + bytes(map(int, host.split("."))) + bytes(12)


def offer(k: int, name: bytes, one_time: bytes, addresses: list[str]) -> bytes:
    start = b"CPDO\1" + u(k, 1) + u(len(addresses), 1) + b"\0" + name + x25519_public(one_time) + ed25519_public(SEED)
    start += b"".join(map(address, addresses))
    return start + ed25519_sign(SEED, b"Centipede v1 offer\0" + start)


def session(case: Case) -> bytes:
    own: bytes = u(case["shard"], 2)
    params, peer_params = (
        u(p["gap_10ms"], 2) + u(p["largest_inner"], 2) + u(p["features"], 2) + u(p["k"], 1) + b"\0"
        for p in (case["params"], case["peer_params"])
    )
    parts: list[bytes] = [
        u(case["ours"], 1),
        b"\1",
        own,
        u(case["first"], 2),
        u(case["end"], 2),
        u(case["timestamp"], 8),
        case["base"],
        own,
        case["peer_base"],
        u(case["peer_shard"], 2),
        u(case["age_ms"], 4),
        u(case["idle_ms"], 4),
        params,
        peer_params,
        *case["keys"].values(),
    ]
    return b"".join(parts)


def example(label: str, shard: int, first: int, end: int, k: int, age_ms: int) -> Case:
    names = ("tx_data", "rx_data", "tx_control", "rx_control")
    return {
        "ours": age_ms % 2,
        "shard": shard,
        "first": first,
        "end": end,
        "timestamp": 1700000000000000000 + age_ms,
        "base": fill(label + " base", 6),
        "peer_base": fill(label + " peer base", 6),
        "peer_shard": 0,
        "age_ms": age_ms,
        "idle_ms": 25,
        "params": {"gap_10ms": 1000, "largest_inner": 65535, "features": 0, "k": k},
        "peer_params": {"gap_10ms": 1000, "largest_inner": 65535, "features": 0, "k": 1},
        "keys": {name: fill(f"{label} {name}", 32) for name in names},
    }


def export(
    to: bytes, secret: bytes, flags: int, addresses: list[str], sessions: list[Case], signer: bytes = SEED
) -> bytes:
    head = b"CPDM\1" + u(flags, 1) + u(len(sessions), 2) + to[8:24] + x25519_public(secret)
    rest = ed25519_public(SEED) + ed25519_public(PEER) + u(1700000000000000001, 8) + u(1600000000000000002, 8)
    rest += u(len(addresses), 1) + bytes(7) + b"".join(map(address, addresses)) + b"".join(map(session, sessions))
    (key,) = kdf(sha(b"Centipede v1 export"), x25519(secret, to[24:56]) + sha(to), 1)
    return head + aead(key, Z, head, ed25519_sign(signer, b"Centipede v1 export\0" + sha(to) + head + rest) + rest)


def text(kind: str, data: bytes) -> str:
    encoded = b64encode(data).decode()
    return "\n".join([f"centipede {kind} v1", *(encoded[i : i + 76] for i in range(0, len(encoded), 76)), ""])


def handover() -> dict[str, Any]:
    one_time, secret = fill("importer", 32), fill("exporter", 32)

    def case(name: str, k: int, flags: int, found: list[str], addresses: list[str], sessions: list[Case]) -> Case:
        made = offer(k, fill(name + " id", 16), one_time, found)
        sealed = export(made, secret, flags, addresses, sessions)
        return {
            "name": name,
            "identity": SEED,
            "peer": ed25519_public(PEER),
            "k": k,
            "import_id": fill(name + " id", 16),
            "one_time": one_time,
            "found": found,
            "offer": made,
            "offer_text": text("offer", made),
            "export_one_time": secret,
            "move": flags == 2,
            "floor": 1700000000000000001,
            "last_used": 1600000000000000002,
            "addresses": addresses,
            "sessions": sessions,
            "export": sealed,
            "export_text": text("export", sealed),
        }

    cases = [
        case("move", 1, 2, ["198.51.100.20:51820"], ["203.0.113.9:40001"], [example("a", 2, 4, 16383, 1, 60_001)]),
        case("join", 0, 1, [], ["[2001:db8::1]:7", "192.0.2.1:9"], [example("b", 5, 9, 13, 4, 0)]),
        case(
            "three sessions",
            4,
            2,
            ["[2001:db8::2]:51820", "192.0.2.2:1"],
            [],
            [
                example("c", 16, 32, 16383, 4, 1_000),
                example("d", 32, 48, 48, 4, 120_000),
                example("e", 0, 16, 17, 4, 1),
            ],
        ),
    ]
    good = cases[0]["export"]
    made = cases[0]["offer"]
    bits = [0, 39, 47, 63, 64, 191, 192, 447, 448, 8 * len(good) - 1]
    refused = [
        {
            "name": f"bit {bit}",
            "export": bytes(b ^ (0x80 >> bit % 8 if bit // 8 == at else 0) for at, b in enumerate(good)),
        }
        for bit in bits
    ]
    one = [example("a", 2, 4, 16383, 1, 60_001)]
    refused += [
        {"name": "cut short", "export": good[:-1]},
        {"name": "flags 3", "export": export(made, secret, 3, [], one)},
        {"name": "signed by another", "export": export(made, secret, 2, [], one, signer=b"\5" * 32)},
        {"name": "pending", "export": export(made, secret, 2, [], [one[0] | {"ours": 2}])},
        {"name": "unaligned run", "export": export(made, secret, 2, [], [one[0] | {"shard": 3}])},
        {"name": "run in its range", "export": export(made, secret, 2, [], [one[0] | {"first": 3}])},
        {"name": "range backwards", "export": export(made, secret, 2, [], [one[0] | {"first": 9, "end": 8}])},
        {"name": "no such shard", "export": export(made, secret, 2, [], [one[0] | {"shard": 0x3FFF}])},
        {"name": "four sessions", "export": export(made, secret, 2, [], one * 4)},
    ]
    offer_bits = [0, 39, 47, 55, 64, 191, 192, 447, 448, 8 * len(made) - 1]
    bad_offers = [
        {
            "name": f"bit {bit}",
            "offer": bytes(b ^ (0x80 >> bit % 8 if bit // 8 == at else 0) for at, b in enumerate(made)),
        }
        for bit in offer_bits
    ]
    return {
        "cases": cases,
        "refused_exports": refused,
        "refused_offers": [*bad_offers, {"name": "short", "offer": made[:-1]}],
    }
