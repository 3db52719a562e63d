"""Place: where in a configuration file something stands, and the one sentence that says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from centipede.errors import ConfigError

_T = TypeVar("_T")

_EXAMPLES = {
    "member": "member = 2",
    "of": "of = 8",
    "members": 'members = ["10.8.0.1:51821", "10.8.0.3:51821"]',
    "weight": "weight = 255",
    "store": 'store = "etcd" or remove the key',
    "ca_file": 'ca_file = "etcd-ca.pem"',
    "cert_file": 'cert_file = "member.pem"',
    "key_file": 'key_file = "member.key"',
    "prefix": 'prefix = "/centipede"',
    "private_key_file": 'private_key_file = "site-a.key"',
    "private_key": 'private_key = "..." with what centipede genkey prints',
    "address": 'address = ["10.7.0.1/24", "fd07::1/64"]',
    "listen": 'listen = "auto" or listen = ["192.0.2.10:51820", "wwan0:51820"]',
    "mtu": 'mtu = "auto" or mtu = 1420',
    "fwmark": 'fwmark = "auto" or fwmark = 52894',
    "table": 'table = "auto", table = "off" or table = 1234',
    "engine": 'engine = "auto", "python" or "native"',
    "workers": 'workers = "auto" or workers = 2',
    "busy_poll": 'busy_poll = "auto" or busy_poll = 0.0002',
    "name": 'name = "laptop"',
    "public_key": 'public_key = "..." with what centipede pubkey prints',
    "preshared_key_file": 'preshared_key_file = "laptop.psk"',
    "preshared_key": 'preshared_key = "..." with what centipede genpsk prints',
    "endpoints": 'endpoints = ["vpn.example.net:51820", "198.51.100.7:51820"]',
    "allowed_ips": 'allowed_ips = ["10.7.0.2/32", "fd07::2/128"]',
    "scheduler": 'scheduler = "adaptive", "redundant", "fastest" or "aggregate"',
    "copies": 'copies = 2 or copies = "all"',
    "heartbeat": "heartbeat = 0.2",
    "allow_remote": 'allow_remote = ["198.51.100.0/24"]',
    "keepalive": "keepalive = true",
    "metered": 'metered = ["wwan0"]',
    "[cluster] listen": 'listen = "10.8.0.1:51821"',
    "[cluster] endpoints": 'endpoints = ["https://10.8.0.9:2379"]',
}
"""What to write, by key; with the section before it where keys of several sections have one name."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in what file, for the beginning of an error's sentence."""

    origin: str
    section: str

    def fail(self, key: str, problem: str) -> NoReturn:
        raise ConfigError(": ".join(part for part in (self.origin, self.section, key, problem) if part))

    def example(self, key: str) -> str:
        """What to write for a key."""
        return _EXAMPLES.get(f"{self.section} {key}") or _EXAMPLES[key]

    def within(self, key: str, number: int, allowed: range) -> int:
        if number not in allowed:
            self.fail(key, f"{number} is not in {allowed[0]} to {allowed[-1]}; write {self.example(key)}")
        return number

    def parse(self, key: str, text: str, parse: Callable[[str], _T]) -> _T:
        try:
            return parse(text)
        except ValueError as error:
            self.fail(key, str(error))

    def parse_each(self, key: str, texts: Sequence[str], parse: Callable[[str], _T]) -> tuple[_T, ...]:
        """Parse a list, in which nothing may stand twice."""
        values: list[_T] = []
        for index, text in enumerate(texts):
            value = self.parse(f"{key}[{index}]", text, parse)
            if value in values:
                self.fail(f"{key}[{index}]", f"{text!r} stands there twice; remove one")
            values.append(value)
        return tuple(values)
