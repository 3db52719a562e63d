"""Identity and PublicKey: who a node is, which keys are refused, and that secrets do not become text."""

import copy
import pickle

import pytest

from centipede.protocol.identity import Identity, PublicKey, parse_key, render_key

# The eight points of small order, as lists of such keys have them.
SMALL_ORDER = (
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
)


def identity(number: int) -> Identity:
    return Identity.from_seed(bytes([number]) * 32)


def test_public_key_and_signature_of_rfc_8032() -> None:
    """RFC 8032, section 7.1, test 3."""
    alice = Identity.from_seed(bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7"))
    assert alice.public.raw.hex() == "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"
    assert alice.sign(bytes.fromhex("af82")).hex() == (
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )


def test_images_of_two_identities_agree_on_a_secret() -> None:
    alice, bob = identity(1), identity(2)
    shared = alice.exchange(bob.public.x25519)
    assert shared == bob.exchange(alice.public.x25519)
    assert shared != identity(3).exchange(alice.public.x25519)


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31)])
def test_exchange_refuses_a_zero_result(point: bytes) -> None:
    with pytest.raises(ValueError):
        identity(1).exchange(point)


@pytest.mark.parametrize("raw", SMALL_ORDER)
def test_small_order_is_refused(raw: str) -> None:
    with pytest.raises(ValueError, match="small order"):
        PublicKey.from_raw(bytes.fromhex(raw))
    with pytest.raises(ValueError, match="small order"):
        PublicKey.from_text(render_key(bytes.fromhex(raw)))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_wrong_lengths_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"32 bytes, not {size}"):
        PublicKey.from_raw(bytes(size))
    with pytest.raises(ValueError, match=f"32 bytes, not {size}"):
        Identity.from_seed(bytes(size))
    with pytest.raises(ValueError, match=f"32 random bytes, not {size}"):
        identity(1).hedge(b"context", bytes(size))


def test_public_key_is_a_value() -> None:
    raw = identity(1).public.raw
    assert PublicKey.from_raw(raw) == PublicKey.from_raw(bytes(raw))
    assert len({PublicKey.from_raw(raw), PublicKey.from_raw(raw), identity(2).public}) == 2
    with pytest.raises(AttributeError):
        identity(1).public.raw = raw  # type: ignore[misc]  # the point of the test


def test_public_key_texts() -> None:
    public = identity(1).public
    assert PublicKey.from_text(f"  {public.text}\n") == public
    assert len(public.text) == 44
    assert f"{public}" == public.short == public.text[:8]
    assert repr(public) == f"PublicKey({public.short})"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "short",
        "A" * 43,
        "A" * 44,
        "A" * 42 + "B=",  # another spelling of zeros: the last character has bits to spare
        "A" * 43 + "==",
        "A" * 20 + "\n" + "A" * 23 + "=",
        "_" * 43 + "=",
        "ä" * 43 + "=",
        "A" * 64,
    ],
)
def test_malformed_key_text_is_refused_and_not_repeated(text: str) -> None:
    for read in (parse_key, PublicKey.from_text, Identity.from_text):
        with pytest.raises(ValueError, match="44 characters of base64") as caught:
            read(text)
        assert not text or text not in str(caught.value)
        assert caught.value.__cause__ is None


def test_secret_becomes_text_in_one_way_only() -> None:
    alice = identity(1)
    assert Identity.from_text(alice.text()).public == alice.public
    for text in (repr(alice), str(alice), f"{alice}"):
        assert text == f"Identity({alice.public.short}, secret)"
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="secret"):
            duplicate(alice)


def test_generated_identity_is_made_of_the_random_bytes() -> None:
    assert Identity.generate(b"\7" * 32).public == identity(7).public


def test_hedged_ephemerals_depend_on_each_of_their_three_parts() -> None:
    made = [
        identity(number).hedge(context, bytes([random]) * 32)
        for number in (1, 2)
        for context in (b"a", b"b")
        for random in (0, 1)
    ]
    assert len(set(made)) == 8
    assert {len(private) for private in made} == {32}
    assert identity(1).hedge(b"a", bytes(32)) == made[0]
