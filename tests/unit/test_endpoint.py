"""Endpoint: equal addresses are equal endpoints, and text that is none is refused."""

import pytest

from centipede.protocol.endpoint import Endpoint


@pytest.mark.parametrize(
    ("text", "canonical", "version", "packed"),
    [
        ("192.0.2.1:51820", "192.0.2.1:51820", 4, "c0000201"),
        ("0.0.0.0:0", "0.0.0.0:0", 4, "00000000"),
        ("[2001:DB8:0:0::1]:65535", "[2001:db8::1]:65535", 6, "20010db8000000000000000000000001"),
        ("[::]:1", "[::]:1", 6, "00" * 16),
        ("[::ffff:192.0.2.1]:9", "192.0.2.1:9", 4, "c0000201"),
        ("[fe80::1%eth0]:9", "[fe80::1%eth0]:9", 6, "fe80" + "00" * 13 + "01"),
    ],
)
def test_text(text: str, canonical: str, version: int, packed: str) -> None:
    endpoint = Endpoint.parse(text)
    assert str(endpoint) == canonical
    assert Endpoint.parse(canonical) == endpoint == Endpoint.of(endpoint.host, endpoint.port)
    assert (endpoint.version, endpoint.packed.hex()) == (version, packed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.1",
        "192.0.2.1:",
        ":51820",
        "192.0.2.1:65536",
        "192.0.2.1:-1",
        "192.0.2.1:+1",
        "192.0.2.1:0x1",
        "192.0.2:1",
        "vpn.example.net:51820",
        "2001:db8::1:51820",
        "[2001:db8::1]",
        "[2001:db8::1]51820",
        "[2001:db8::g]:1",
    ],
)
def test_text_that_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError):
        Endpoint.parse(text)


@pytest.mark.parametrize("port", [-1, 65536])
def test_port_out_of_range(port: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.65535"):
        Endpoint.of("192.0.2.1", port)


def test_endpoints_are_values() -> None:
    assert len({Endpoint.parse("[2001:db8::1]:1"), Endpoint.of("2001:DB8::0:1", 1), Endpoint.of("2001:db8::1", 2)}) == 2
