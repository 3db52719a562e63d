"""The primitives of the wire in the plainest Python, for the vector generator.

Ed25519 and X25519 (RFC 8032, RFC 7748), ChaCha20-Poly1305 (RFC 8439), HKDF (RFC 5869). Only hashes come from the
standard library. Slow and not constant in time: this must never handle a real key.
"""

import hashlib
import hmac
from functools import cache
from typing import Any

Case = dict[str, Any]
"""One entry of a vector file; bytes become hexadecimal."""


def fill(label: str, size: int) -> bytes:
    """Bytes that look random and are always the same for a label."""
    blocks = (hashlib.sha256(f"{label}/{i}".encode()).digest() for i in range(size // 32 + 1))
    return b"".join(blocks)[:size]


def u(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


# Curve25519 and edwards25519: RFC 7748, RFC 8032.

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)  # of -1

Point = tuple[int, int]  # affine; the neutral point is (0, 1)


def add(p: Point, q: Point) -> Point:
    product = D * p[0] * q[0] * p[1] * q[1] % P
    inverse = pow(1 - product * product, -1, P)
    x = (p[0] * q[1] + q[0] * p[1]) * (1 - product) * inverse
    y = (p[1] * q[1] + p[0] * q[0]) * (1 + product) * inverse
    return x % P, y % P


def multiply(n: int, p: Point) -> Point:
    result = (0, 1)
    while n:
        if n & 1:
            result = add(result, p)
        p = add(p, p)
        n >>= 1
    return result


def recover_x(y: int, odd: int) -> int | None:
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * ROOT % P
    if x * x % P != square:
        return None
    return P - x if x and x & 1 != odd else x


def base_point() -> Point:
    y = 4 * pow(5, P - 2, P) % P
    x = recover_x(y, 0)
    assert x is not None
    return x, y


BASE = base_point()


def encode_point(p: Point) -> bytes:
    return (p[1] | (p[0] & 1) << 255).to_bytes(32, "little")


def clamp(raw: bytes) -> int:
    return int.from_bytes(raw, "little") & (2**254 - 8) | 2**254


@cache
def ed25519_public(seed: bytes) -> bytes:
    return encode_point(multiply(clamp(hashlib.sha512(seed).digest()[:32]), BASE))


def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    digest = hashlib.sha512(seed).digest()
    scalar = clamp(digest[:32])
    r = int.from_bytes(hashlib.sha512(digest[32:] + message).digest(), "little") % L
    commitment = encode_point(multiply(r, BASE))
    k = int.from_bytes(hashlib.sha512(commitment + ed25519_public(seed) + message).digest(), "little") % L
    return commitment + ((r + k * scalar) % L).to_bytes(32, "little")


def x25519(private: bytes, public: bytes) -> bytes:
    """The Montgomery ladder, RFC 7748 section 5."""
    k, u1 = clamp(private), int.from_bytes(public, "little") % 2**255 % P
    x2, z2, x3, z3 = 1, 0, u1, 1
    for t in reversed(range(255)):
        if k >> t & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a, b * b, d * a, c * b
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, u1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
        if k >> t & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def x25519_public(private: bytes) -> bytes:
    return x25519(private, u(9, 1) + bytes(31))


def image(public: bytes) -> bytes:
    y = int.from_bytes(public, "little") % 2**255
    return ((1 + y) * pow(1 - y, P - 2, P) % P).to_bytes(32, "little")


# ChaCha20-Poly1305: RFC 8439. HKDF: RFC 5869.


def chacha20_block(key: bytes, counter: int, nonce: bytes) -> bytes:
    words = [
        int.from_bytes(part[i : i + 4], "little") for part in (b"expand 32-byte k", key) for i in range(0, len(part), 4)
    ]
    words += [counter] + [int.from_bytes(nonce[i : i + 4], "little") for i in (0, 4, 8)]
    w = words[:]

    def step(a: int, b: int, d: int, rotation: int) -> None:
        w[a] = (w[a] + w[b]) % 2**32
        mixed = w[d] ^ w[a]
        w[d] = (mixed << rotation | mixed >> (32 - rotation)) % 2**32

    for _ in range(10):
        for a, b, c, d in (
            *((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)),
            *((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)),
        ):
            step(a, b, d, 16)
            step(c, d, b, 12)
            step(a, b, d, 8)
            step(c, d, b, 7)
    return b"".join(((x + y) % 2**32).to_bytes(4, "little") for x, y in zip(w, words, strict=True))


def chacha20(key: bytes, nonce: bytes, data: bytes) -> bytes:
    stream = b"".join(chacha20_block(key, 1 + i, nonce) for i in range((len(data) + 63) // 64))
    return bytes(a ^ b for a, b in zip(data, stream, strict=False))


def poly1305(key: bytes, message: bytes) -> bytes:
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for i in range(0, len(message), 16):
        total = (total + int.from_bytes(message[i : i + 16] + b"\1", "little")) * r % (2**130 - 5)
    return ((total + int.from_bytes(key[16:], "little")) % 2**128).to_bytes(16, "little")


def aead(key: bytes, nonce: bytes, ad: bytes, plaintext: bytes) -> bytes:
    """Ciphertext, then tag."""
    ciphertext = chacha20(key, nonce, plaintext)
    lengths = len(ad).to_bytes(8, "little") + len(ciphertext).to_bytes(8, "little")
    message = ad + bytes(-len(ad) % 16) + ciphertext + bytes(-len(ciphertext) % 16) + lengths
    return ciphertext + poly1305(chacha20_block(key, 0, nonce)[:32], message)


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def kdf(chaining: bytes, material: bytes, count: int) -> list[bytes]:
    extracted, block, blocks = mac(chaining, material), b"", []
    for i in range(1, count + 1):
        block = mac(extracted, block, u(i, 1))
        blocks.append(block)
    return blocks


def check_primitives() -> None:
    """One published vector each: RFC 8032 7.1 test 2, RFC 7748 5.2 first, RFC 8439 2.8.2."""
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    assert ed25519_public(seed).hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert ed25519_sign(seed, b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    assert x25519(scalar, point).hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    nonce, ad = bytes.fromhex("070000004041424344454647"), bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    assert aead(bytes(range(0x80, 0xA0)), nonce, ad, text)[-16:].hex() == "1ae10b594f09e26a7e902ecbd0600691"
