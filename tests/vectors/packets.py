"""Vectors of session packets, control messages and replay windows: session.json, control.json and window.json."""

from collections.abc import Iterable, Sequence
from typing import Any

from tests.vectors.primitives import Case, aead, fill, u


def session_packet(
    key: bytes, counter: int, control: bool, source: int, base: bytes, shard: int, plaintext: bytes
) -> bytes:
    head = u(control << 62 | source << 48 | counter, 8) + base + u(shard, 2)
    sealed = aead(key, bytes(4) + head[:8], head, plaintext)
    return head + sealed[-16:] + sealed[:-16]


def session() -> dict[str, Any]:
    def case(size: int, counter: int = 0, control: bool = False, source: int = 0, shard: int = 0) -> Case:
        label = f"{size} {counter} {control} {source} {shard}"
        fields: Case = {
            "key": fill("key " + label, 32),
            "counter": counter,
            "control": control,
            "source": source,
            "base": fill("base " + label, 6),
            "shard": shard,
            "plaintext": fill("plaintext " + label, size),
        }
        return fields | {"datagram": session_packet(**fields)}

    cases = [case(size) for size in (0, 1, 15, 16, 17, 20, 63, 64, 65, 127, 128, 1280, 1420, 1421, 8920)]
    cases += [case(64, counter) for counter in (1, 2**31, 2**32 - 1, 2**32, 2**43, 2**44 - 1)]
    cases += [case(40, 7, source=source, shard=shard) for source, shard in ((1, 0), (0, 1), (255, 16), (16382, 16382))]
    cases += [case(64, 3, True, source, shard) for source, shard in ((0, 0), (0, 0xFFFF), (16382, 0xFFFF), (16, 4))]

    victim = case(100, 9, source=3, shard=5)
    good: bytes = victim["datagram"]

    def flip(offset: int, bit: int) -> bytes:
        return good[:offset] + bytes([good[offset] ^ 1 << bit]) + good[offset + 1 :]

    spots = ((0, 6), (1, 0), (7, 0), (8, 7), (13, 0), (14, 0), (15, 7), (16, 0), (31, 7), (32, 0), (131, 7))
    damaged = [{"name": f"byte {o} bit {b}", "datagram": flip(o, b)} for o, b in spots]
    damaged += [{"name": f"cut to {n} bytes", "datagram": good[:n]} for n in (0, 1, 31, 32, 131)]
    damaged += [{"name": "one byte more", "datagram": good + b"\0"}]
    return {"cases": cases, "damaged": {"key": victim["key"], "intact": good, "cases": damaged}}


def control() -> dict[str, Any]:
    def heartbeat(flags: int = 0, padding: int = 0, response: str = "", **given: int) -> Case:
        fields = {"weight": 255, "next_in_10ms": 20, "max_len": 0, "t1": 1, "echo": 0, "arrival": 0}
        fields |= {"received": 0, "sent": 0, "received_kib": 0, "path": 0, "k": 0} | given
        challenge, answer = fill("challenge", 8), fill(response, 8) if response else bytes(8)
        f = fields
        plaintext = u(1, 1) + u(flags, 1) + u(f["weight"], 1) + b"\0" + u(f["next_in_10ms"], 2) + u(f["max_len"], 2)
        plaintext += challenge + answer + u(f["t1"], 8) + u(f["echo"], 8) + u(f["arrival"], 8)
        plaintext += u(f["received"], 4) + u(f["sent"], 4) + u(f["received_kib"], 4) + u(f["path"], 2) + u(f["k"], 1)
        plaintext += b"\0" + bytes(padding)
        texts = {"challenge": challenge, "response": answer if response else None, "padding": padding}
        return {"type": "heartbeat", "flags": flags, **texts, **fields, "plaintext": plaintext}

    def address(family: int, port: int, raw: str) -> bytes:
        return u(family, 1) + b"\0" + u(port, 2) + bytes.fromhex(raw).ljust(16, b"\0")

    def addresses(texts: Sequence[str], *entries: bytes) -> Case:
        plaintext = b"\2" + u(len(entries), 1) + bytes(6) + b"".join(entries)
        return {"type": "addresses", "endpoints": list(texts), "plaintext": plaintext}

    v4, v6 = address(4, 51820, "c000020a"), address(6, 443, "20010db8000000000000000000000001")
    cases = [
        heartbeat(),
        heartbeat(0x01, response="answer", echo=5, arrival=9, received=3, sent=4),
        heartbeat(0x3F, padding=1292, response="answer", k=4, path=65535),
        heartbeat(0x20, padding=1, weight=0),
        *(heartbeat(1 << bit) for bit in (1, 2, 3, 4)),
        heartbeat(
            weight=0,
            next_in_10ms=65535,
            max_len=65535,
            t1=2**64 - 1,
            echo=2**64 - 2,
            arrival=2**64 - 3,
            received=2**32 - 1,
            sent=2**32 - 2,
            received_kib=2**32 - 3,
            path=1,
        ),
        addresses([]),
        addresses(["192.0.2.10:51820", "[2001:db8::1]:443"], v4, v6),
        addresses(["192.0.2.10:51820"] * 16, *[v4] * 16),
        {"type": "observed", "endpoint": "192.0.2.10:51820", "plaintext": b"\3" + v4[:1] + v4[2:4] + bytes(4) + v4[4:]},
        {
            "type": "observed",
            "endpoint": "[2001:db8::1]:443",
            "plaintext": b"\3" + v6[:1] + v6[2:4] + bytes(4) + v6[4:],
        },
        {"type": "parted", "paths": [], "plaintext": b"\4" + bytes(7)},
        {"type": "parted", "paths": [1, 65535], "plaintext": b"\4\2" + bytes(6) + b"\0\1\xff\xff"},
        {
            "type": "parted",
            "paths": list(range(64)),
            "plaintext": b"\4\x40" + bytes(6) + b"".join(number.to_bytes(2, "big") for number in range(64)),
        },
    ]
    beat, observed = cases[0]["plaintext"], cases[-4]["plaintext"]
    # Read, though nobody writes them so: what is unknown or reserved is passed over.
    tolerated = [
        {**cases[0], "plaintext": b"\1\xc0" + beat[2:3] + b"\xff" + beat[4:63] + b"\xff"},
        {**cases[0], "plaintext": beat + b"bytes after the message"},
        addresses(["192.0.2.10:51820"], v4[:1] + b"\xff" + v4[2:], address(5, 1, "00"), address(4, 0, "c000020a")),
        {"type": "unknown", "number": 5, "plaintext": b"\5"},
        {"type": "unknown", "number": 0, "plaintext": bytes(64)},
        {"type": "unknown", "number": 255, "plaintext": b"\xff" * 9},
    ]
    malformed = [b"", b"\1", beat[:63], beat[:62] + b"\5\0", b"\2\0", b"\2\1" + bytes(6) + v4[:19], b"\3"]
    malformed += [b"\2\x11" + bytes(6) + v4 * 17, observed[:23], b"\3\5" + observed[2:], b"\3\6\0\0" + observed[4:]]
    malformed += [b"\4", b"\4\1" + bytes(7), b"\4\x41" + bytes(6 + 130)]
    return {"cases": cases, "tolerated": tolerated, "malformed": malformed}


def window() -> dict[str, Any]:
    def naive(size: int, counters: Iterable[int]) -> list[list[Any]]:
        """The verdicts of a set of accepted counters and, for each place, the newest block that took it."""
        accepted: set[int] = set()
        newest: dict[int, int] = {}
        steps: list[list[Any]] = []
        for counter in counters:
            block = counter // 32
            place = block % (size // 32)
            if counter >= 2**44 or newest.get(place, 0) > block:
                verdict = "old"
            elif counter in accepted:
                verdict = "seen"
            else:
                verdict = "new"
                accepted.add(counter)
                newest[place] = block
            steps.append([counter, verdict])
        return steps

    def scattered(label: str, count: int, spread: int) -> Iterable[int]:
        return (i * 40 + int.from_bytes(fill(f"{label} {i}", 4), "big") % spread for i in range(count))

    def cases(size: int) -> list[tuple[str, list[int]]]:
        w = size
        return [
            ("in order, and a replay of all", [*range(70), *range(70)]),
            ("backwards", list(range(69, -1, -1))),
            ("the edge of the window", [w, w - 31, 31, 0, w + 31, 1, w + 32, 32, 63, 64, 2 * w - 1, w - 1, w - 32, w]),
            (
                "one place, block after block",
                [0, w, 0, 1, w, w + 1, 2 * w, w + 2, 2 * w + 31, 3 * w, 2 * w + 30, 3 * w],
            ),
            ("a far jump forgets what it overwrites only", [5, 100, 2**43, 5, 100, 2**43 - w // 2, 2**43, 101, 6]),
            ("the last counters", [2**44 - 1, 2**44 - 2, 2**44 - 1, 2**44, 2**44 + 1, 2**48 - 1, 2**44 - w, 0]),
            ("32-bit boundary", [2**32 - 1, 2**32, 2**32 + 1, 2**32 - 1, 2**32, 2**32 - w, 2**31, 2**37, 2**37 - 1]),
            ("two paths, late copies", [c for i in range(60) for c in (i * 3, max(0, i - 20) * 3)]),
            ("scattered within the window", list(scattered(f"near {w}", 150, w // 2))),
            ("scattered beyond the window", list(scattered(f"far {w}", 150, 4 * w))),
        ]

    sizes = (4096, 65536, 2**20)
    return {"cases": [{"name": n, "size": w, "steps": naive(w, c)} for w in sizes for n, c in cases(w)]}
