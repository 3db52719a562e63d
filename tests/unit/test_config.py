"""Configuration: what is understood, and that each mistake is one sentence with file, section, key and remedy."""

from __future__ import annotations

import os
import re
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest

from centipede.config import Config, covering, load_config, parse_peer
from centipede.errors import ConfigError
from centipede.fields import ANYWHERE, Listen, Target, parse_listen, parse_name, parse_network, parse_target
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.identity import Identity, render_key
from centipede.protocol.spec import PeerSpec
from centipede.protocol.timing import Timing
from tests.authority import Authority

OWN = Identity.from_seed(bytes([1]) * 32)
ALICE = Identity.from_seed(bytes([2]) * 32).public.text
BOB = Identity.from_seed(bytes([3]) * 32).public.text
PSK = render_key(bytes([7]) * 32)

WHOLE = f"""
[interface]
private_key_file = "own.key"
address = ["10.7.0.1/24", "fd07::1/64"]
listen = ["192.0.2.10:51820", "wwan0", "[2001:db8::1]:4000", "auto:0"]
mtu = 1380
engine = "python"
workers = 3
busy_poll = 0.0002

[[peer]]
name = "alice"
public_key = "{ALICE}"
preshared_key_file = "keys/alice.psk"
endpoints = ["vpn.example.net", "198.51.100.7:51821", "[2001:db8::7]:1"]
allowed_ips = ["10.7.0.2", "192.168.4.0/24", "fd07::2/128"]
scheduler = "redundant"
copies = "all"
heartbeat = 0.5
allow_remote = ["198.51.100.0/24"]
keepalive = true

[[peer]]
public_key = "{BOB}"
scheduler = "fastest"

[timing]
rekey_s = 8
resend_s = [0, 0.5]
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    secret(tmp_path / "own.key", OWN.text())
    (tmp_path / "keys").mkdir()
    secret(tmp_path / "keys" / "alice.psk", PSK)
    return tmp_path


def secret(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text + "\n")
    path.chmod(mode)


def load(directory: Path, text: str, name: str = "site-a.toml") -> Config:
    file = directory / name
    file.write_text(text)
    file.chmod(0o600)
    return load_config(file)


def test_every_key_is_understood(directory: Path) -> None:
    config = load(directory, WHOLE)
    assert config.name == "site-a"
    assert config.identity.public == OWN.public
    assert config.addresses == (ip_interface("10.7.0.1/24"), ip_interface("fd07::1/64"))
    assert config.listen == (
        Listen(51820, endpoint=Endpoint("192.0.2.10", 51820)),
        Listen(51820, link="wwan0"),
        Listen(4000, endpoint=Endpoint("2001:db8::1", 4000)),
        Listen(0),
    )
    assert (config.mtu, config.engine, config.workers, config.busy_poll_s) == (1380, "python", 3, 0.0002)
    assert config.timing == Timing(rekey_s=8.0, resend_s=(0.0, 0.5))
    alice, bob = config.peers
    assert alice.endpoints == (
        Target("vpn.example.net", 51820, None),
        Target("198.51.100.7", 51821, Endpoint("198.51.100.7", 51821)),
        Target("2001:db8::7", 1, Endpoint("2001:db8::7", 1)),
    )
    assert alice.spec.name == "alice"
    assert alice.spec.preshared_key == bytes([7]) * 32
    assert alice.spec.allowed_ips == tuple(map(ip_network, ("10.7.0.2/32", "192.168.4.0/24", "fd07::2/128")))
    assert (alice.spec.scheduler, alice.spec.copies) == ("redundant", None)
    assert (alice.spec.heartbeat_s, alice.spec.keepalive) == (0.5, True)
    assert alice.spec.allow_remote == (ip_network("198.51.100.0/24"),)
    assert (bob.spec.name, bob.spec.scheduler, bob.endpoints) == (BOB[:8], "fastest", ())


def test_defaults(directory: Path) -> None:
    config = load(directory, f'[interface]\nprivate_key = "{OWN.text()}"\naddress = ["10.7.0.1/24"]\n')
    assert (config.mtu, config.engine, config.workers, config.busy_poll_s) == (None, "auto", None, None)
    assert config.listen == (ANYWHERE,)
    assert config.peers == ()
    assert config.timing == Timing()


@pytest.mark.parametrize("text", ["auto", "auto:0", "wwan0:4000", "192.0.2.10:51820"])
def test_one_place_to_listen_needs_no_list(directory: Path, text: str) -> None:
    of_one = load(
        directory, WHOLE.replace('["192.0.2.10:51820", "wwan0", "[2001:db8::1]:4000", "auto:0"]', f'"{text}"')
    )
    assert of_one.listen == (parse_listen(text),)


def test_adaptive_unless_copies_are_asked_for(directory: Path) -> None:
    def parse(**written: object) -> PeerSpec:
        return parse_peer({"public_key": ALICE, **written}, "here", directory).spec

    assert parse().scheduler == "adaptive"
    assert (parse(copies=3).scheduler, parse(copies=3).copies) == ("redundant", 3)
    assert parse(metered=["wwan0", "2001:DB8:0::1"]).metered == ("wwan0", "2001:db8::1")


def test_default_of_copies_is_two(directory: Path) -> None:
    assert parse_peer({"public_key": ALICE}, "here", directory).spec.copies == 2


def test_secrets_stay_out_of_the_text_of_a_configuration(directory: Path) -> None:
    text = repr(load(directory, WHOLE.replace('preshared_key_file = "keys/alice.psk"', f'preshared_key = "{PSK}"')))
    assert OWN.text() not in text
    assert PSK not in text
    assert repr(bytes([7]) * 32) not in text


PEER = "[[peer]]\npublic_key"
CLUSTER = '[cluster]\nmember = 1\nof = 2\nlisten = "10.8.0.1:5"\n'
STORE = 'store = "etcd"\nendpoints = '

# Each row: what is replaced in WHOLE, by what, and what the sentence must then hold besides the file's name. Three dots
# stand for anything within a line.
MISTAKES = [
    # unknown and misplaced
    ("mtu = 1380", "mtuu = 1380", "[interface]: mtuu: there is no such key; did you mean mtu?"),
    ("copies =", "copys =", "[[peer]] alice: copys: there is no such key; did you mean copies?"),
    ("rekey_s =", "rekey =", "[timing]: rekey: there is no such key; did you mean rekey_s?"),
    ("mtu = 1380", "zzzzzz = 1", "zzzzzz: there is no such key; there are private_key_file, "),
    ("[timing]", "[timings]", "[timings]: there is no such section; did you mean timing?"),
    ("[[peer]]\npublic_key", "[cluster]\n[[peer]]\npublic_key", "[cluster]: member: is missing; add member = 2"),
    (
        "[[peer]]\npublic_key",
        '[cluster]\nmember = 3\nof = 2\nlisten = "10.8.0.1:5"\nmembers = []\n[[peer]]\npublic_key',
        "[cluster]: member: 3 is not in 1 to 2; write member = 2",
    ),
    (
        "[[peer]]\npublic_key",
        '[cluster]\nmember = 1\nof = 2\nlisten = "10.8.0.1:5"\nmembers = ["10.8.0.1:5"]\n[[peer]]\npublic_key',
        "[cluster]: members: 10.8.0.1:5 is this machine's own; name only the others",
    ),
    (
        PEER,
        CLUSTER + "\n" + PEER,
        "[cluster]: members: is missing; add members = ",
    ),
    (
        PEER,
        CLUSTER + 'members = []\nprefix = "/a"\n' + PEER,
        '[cluster]: prefix: is for a store; add store = "etcd" or remove the key',
    ),
    (
        PEER,
        CLUSTER + 'store = "zookeeper"\n' + PEER,
        '[cluster]: store: \'zookeeper\' does not belong here; write store = "etcd"',
    ),
    (
        PEER,
        CLUSTER + 'store = "etcd"\n' + PEER,
        '[cluster]: endpoints: the store has none; write endpoints = ["https://',
    ),
    (
        PEER,
        CLUSTER + "members = []\n" + STORE + '["http://10.8.0.9:2379"]\n' + PEER,
        "[cluster]: members: the store tells them; remove this key or store",
    ),
    (
        PEER,
        CLUSTER + STORE + '["10.8.0.9:2379"]\n' + PEER,
        "[cluster]: endpoints[0]: '10.8.0.9:2379' is no URL of a store; write endpoints = ",
    ),
    (
        PEER,
        CLUSTER + STORE + '["http://10.8.0.9"]\n' + PEER,
        "[cluster]: endpoints[0]: 'http://10.8.0.9' has no port; write endpoints = ",
    ),
    (
        PEER,
        CLUSTER.replace("10.8.0.1", "[fe80::1%lo]") + STORE + '["http://10.8.0.9:2379"]\n' + PEER,
        "[cluster]: listen: [fe80::1%lo]:5 is good on one link only, and a store has no place for that; name another ",
    ),
    (
        PEER,
        CLUSTER + STORE + '["http://10.8.0.9:2379/v3"]\n' + PEER,
        "[cluster]: endpoints[0]: 'http://10.8.0.9:2379/v3' goes on after the port; end it there, and name the place ",
    ),
    (
        PEER,
        CLUSTER + STORE + '["http://10.8.0.8:1", "https://10.8.0.9:1"]\n' + PEER,
        "[cluster]: endpoints: some begin with http and some with https; write all of them alike",
    ),
    (
        PEER,
        CLUSTER + STORE + '["https://10.8.0.9:2379"]\n' + PEER,
        "[cluster]: ca_file: is missing, and without it nobody vouches for the store; add ",
    ),
    (
        PEER,
        CLUSTER + STORE + '["http://10.8.0.9:2379"]\nca_file = "a"\n' + PEER,
        "[cluster]: ca_file: the endpoints begin with http; write https, or remove the key",
    ),
    (
        PEER,
        CLUSTER + STORE + '["https://10.8.0.9:2379"]\nca_file = "a"\ncert_file = "b"\n' + PEER,
        '[cluster]: key_file: is missing; add key_file = "member.key", or remove the other of the two',
    ),
    (
        PEER,
        CLUSTER + STORE + '["https://10.8.0.9:2379"]\nca_file = "none.pem"\n' + PEER,
        "none.pem: No such file or directory; name a PEM file that this user may read",
    ),
    (
        PEER,
        CLUSTER + STORE + '["http://10.8.0.9:2379"]\nprefix = "a b"\n' + PEER,
        "[cluster]: prefix: 'a b' has other than 1 to 200 visible ASCII characters; write prefix = ",
    ),
    (
        PEER,
        "[cluster]\nmember = 1\nof = 2\n" + PEER,
        '[cluster]: listen: is missing; add listen = "10.8.0.1:51821"',
    ),
    (
        PEER,
        '[cluster]\nmember = 1\nof = 2\nlisten = ["10.8.0.1:5"]\n' + PEER,
        '[cluster]: listen: this does not belong here; write listen = "10.8.0.1:51821"',
    ),
    (
        PEER,
        CLUSTER.replace("10.8.0.1", "0.0.0.0") + "members = []\n" + PEER,
        "[cluster]: listen: '0.0.0.0:5' is not the address of one host; write it like 10.8.0.1:51821 or ",
    ),
    (
        PEER,
        CLUSTER.replace("10.8.0.1:5", "auto") + "members = []\n" + PEER,
        "[cluster]: listen: 'auto' is no address; write it like 10.8.0.1:51821 or ",
    ),
    (
        PEER,
        CLUSTER + STORE + '"http://10.8.0.9:2379"\n' + PEER,
        "[cluster]: endpoints: 'http://10.8.0.9:2379' does not belong here; write endpoints = [\"https://",
    ),
    (
        PEER,
        CLUSTER + STORE + '["http://10.8.0:2379"]\n' + PEER,
        "[cluster]: endpoints[0]: '10.8.0:2379' is neither an address nor a host name; write endpoints = [\"https://",
    ),
    (
        "rekey_s = 8",
        "rekey_s = 8\nreject_s = 181\n" + CLUSTER + "members = []",
        "[timing]: reject_s: members of a cluster forget sessions after 180 s; write no more",
    ),
    ("[interface]", "[interfaces]", "[interfaces]: there is no such section; did you mean interface?"),
    # missing
    ("[interface]", "[[peer]]", "[interface]: is missing; add the section"),
    ("address = ...", "", "[interface]: address: is missing; add address = "),
    ("private_key_file = ...", "", "private_key_file: is missing; add ...centipede genkey"),
    (f'public_key = "{BOB}"', "", "[[peer]]: public_key: is missing; add public_key = "),
    # wrong type
    ("mtu = 1380", "mtu = 1.5", "[interface]: mtu: 1.5 does not belong here; write mtu = "),
    ("mtu = 1380", 'mtu = "big"', "mtu: 'big' does not belong here; write mtu = "),
    ("mtu = 1380", "mtu = true", "mtu: true does not belong here; write mtu = "),
    ('engine = "python"', 'engine = "rust"', "engine: 'rust' does not belong here; write engine = "),
    ("keepalive = true", "keepalive = 25", "[[peer]] alice: keepalive: 25 does not belong here; write keepalive"),
    ("heartbeat = 0.5", 'heartbeat = "0.5"', "heartbeat: '0.5' does not belong here; write heartbeat = 0.2"),
    ('"10.7.0.2",', "10,", "allowed_ips[0]: 10 does not belong here; write allowed_ips = "),
    ("address = ...", 'address = "10.7.0.1/24"', "address: '10.7.0.1/24' does not belong here; write address = ["),
    ("private_key_file = ...", "private_key = 12", "private_key: this does not belong here; write private_key = "),
    ("[timing]", "[[timing]]", "[timing]: is a section; write [timing]"),
    ("rekey_s = 8", 'rekey_s = "8"', "[timing]: rekey_s: '8' does not belong here; write numbers like rekey_s = 120.0"),
    ("rekey_s = 8", "rekey_s = nan", "[timing]: rekey_s: nan is not a time"),
    ("rekey_s = 8", "rekey_s = 1" + "0" * 400, "is not a time"),
    ("resend_s = ...", "resend_s = 1", "resend_s: 1 does not belong here; write numbers like resend_s = [0.0, 0.25,"),
    # wrong value
    ("mtu = 1380", "mtu = 1279", "mtu: 1279 is not in 1280 to 65456; write mtu = "),
    ("workers = 3", "workers = 17", "workers: 17 is not in 1 to 16; write workers = "),
    ("busy_poll = 0.0002", "busy_poll = 0.5", "busy_poll: 0.5 s is not between 0 and 0.01; write busy_poll = "),
    ("busy_poll = 0.0002", "busy_poll = -1", "busy_poll: -1 s is not between 0 and 0.01; write busy_poll = "),
    ("address = ...", "address = []", "address: the interface needs an address; write address = ["),
    ('"10.7.0.1/24"', '"10.7.0.300/24"', "address[0]: '10.7.0.300/24' is not an address with a prefix; write it like"),
    ('"fd07::1/64"', '"10.7.0.1/24"', "address[1]: '10.7.0.1/24' stands there twice; remove one"),
    ("listen = ...", "listen = []", "listen: 0 entries, but 1 to 8 are possible"),
    ("listen = ...", "listen = 51820", 'listen: 51820 does not belong here; write listen = "auto" or listen = ['),
    ("listen = ...", 'listen = ["auto", 7]', 'listen[1]: 7 does not belong here; write listen = "auto" or listen = ['),
    ("listen = ...", 'listen = "0.0.0.0:7"', "listen[0]: '0.0.0.0:7' is no single address, ...write auto:7 instead"),
    ('"wwan0"', '"0.0.0.0:7"', "listen[1]: '0.0.0.0:7' is no single address, ...write auto:7 instead"),
    ('"wwan0"', '"wwan0:70000"', "listen[1]: 'wwan0:70000': '70000' is not a port"),
    ('"wwan0"', '"2001:db8::9"', "listen[1]: '2001:db8::9': an IPv6 address is written in brackets"),
    ('"wwan0"', '"10.0.0.300"', "listen[1]: '10.0.0.300' is neither an address nor an interface"),
    ('"wwan0"', '"10.7.0.1:5"', "listen[1]: 10.7.0.1:5 is inside the tunnel"),
    ('"wwan0"', '"site-a:5"', "listen[1]: site-a is the tunnel itself"),
    ('name = "alice"', 'name = "a b"', "[[peer]] a b: name: 'a b' cannot name a peer"),
    (ALICE, ALICE[:-2] + "=", "[[peer]] alice: public_key: ... base64; put in what 'centipede pubkey' prints"),
    (ALICE, render_key(bytes(32)), "[[peer]] alice: public_key: ...small order"),
    (ALICE, OWN.public.text, "[[peer]] alice: public_key: is this interface's own; put in"),
    (BOB, ALICE, "public_key: peer alice has the same; make one entry of the two"),
    (f'"{BOB}"', f'"{BOB}"\nname = "alice"', "[[peer]] alice: name: two peers have this name"),
    (f'"{BOB}"', f'"{BOB}"\nallowed_ips = ["192.168.4.0/24"]', "allowed_ips[0]: 192.168.4.0/24 is peer alice's al"),
    ('"10.7.0.2"', '"10.7.0.2/33"', "[[peer]] alice: allowed_ips[0]: '10.7.0.2/33' is not an IP network; write"),
    ('"10.7.0.2"', '"10.7.0.2/24"', "'10.7.0.2/24' has bits set beyond its prefix; write 10.7.0.0/24 or 10.7.0.2/32"),
    ("mtu = 1380", "fwmark = 0", "fwmark: 0 is not in 1 to 4294967295; write fwmark = "),
    ("mtu = 1380", "table = 254", "table: 254 is one of the kernel's own tables; write table = "),
    ("mtu = 1380", 'table = "main"', "table: 'main' does not belong here; write table = "),
    ("198.51.100.7:51821", "10.7.0.200:9", "endpoints[1]: 10.7.0.200:9 lies inside 10.7.0.0/24, the tunnel's own"),
    ("198.51.100.7:51821", "198.51.100.7:0", "endpoints[1]: '198.51.100.7:0' has port 0"),
    ("vpn.example.net", "vpn example net", "endpoints[0]: 'vpn example net' is neither an address nor a host name"),
    ("vpn.example.net", "10.0.0.256:9", "endpoints[0]: '10.0.0.256:9' is neither an address nor a host name"),
    ("198.51.100.0/24", "198.51.100.7/24", "allow_remote[0]: '198.51.100.7/24' has bits set beyond its prefix"),
    ('"all"', "0", "[[peer]] alice: copies: 0 is less than 1; write copies = 2"),
    ('"all"', '"some"', "copies: 'some' does not belong here; write copies = 2 or"),
    ('"redundant"', '"adaptive"', "copies: scheduler 'adaptive' sends no copies"),
    ('"redundant"', '"aggregate"', "copies: scheduler 'aggregate' sends no copies"),
    ('"redundant"', '"fast"', "scheduler: 'fast' does not belong here; write scheduler = "),
    ('"redundant"', '"fastest"', "copies: scheduler 'fastest' sends no copies"),
    ("keepalive = true", 'metered = ["wwan0"]', "metered: scheduler 'redundant' spares no links"),
    ("heartbeat = 0.5", "heartbeat = 60", "heartbeat: 60 s is not between 0.02 and 10; write heartbeat = 0.2"),
    ("rekey_s = 8", "rekey_s = 0", "[timing]: rekey_s is more than 0 seconds; change the value"),
    # key files
    ("own.key", "absent.key", "private_key_file: ...absent.key does not exist; make a key with 'centipede genkey > "),
    ("own.key", "keys", "private_key_file: ...keys is not a plain file; name a file"),
    ("own.key", "fifo", "private_key_file: ...fifo is not a plain file"),
    ("own.key", "open.key", "open.key is open to other users (mode 0644) ...run 'chmod 600 ...open.key'"),
    ("own.key", "group.key", "private_key_file: ...group.key is open to other users (mode 0640)"),
    ("own.key", "short.key", "private_key_file: ...short.key does not hold one key of 44 characters of base64"),
    ("own.key", "words.key", "private_key_file: ...words.key does not hold one key"),
    ("keys/alice.psk", "keys/bob.psk", "[[peer]] alice: preshared_key_file: ...bob.psk does not exist; ...genpsk > "),
    ("own.key", 'own.key"\nprivate_key = "', "private_key: private_key_file is given as well; remove one"),
    ('preshared_key_file = "keys/alice.psk"', 'preshared_key = "AAAA"', "preshared_key: a key is ...centipede genpsk"),
    # not even TOML
    ("mtu = 1380", "mtu 1380", "not TOML: ...line 6"),
    ("mtu = 1380", "mtu = 1380\nmtu = 1380", "not TOML: Cannot overwrite a value"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "sentence"), MISTAKES)
def test_mistakes_are_told_in_one_sentence(directory: Path, old: str, new: str, sentence: str) -> None:
    secret(directory / "open.key", OWN.text(), 0o644)
    secret(directory / "group.key", OWN.text(), 0o640)
    secret(directory / "short.key", OWN.text()[:20])
    secret(directory / "words.key", "\N{SNOWMAN}")
    os.mkfifo(directory / "fifo", 0o600)
    text, changes = re.subn(dotted(old), lambda _: new, WHOLE, count=1)
    assert changes == 1
    with pytest.raises(ConfigError) as caught:
        load(directory, text)
    told = str(caught.value)
    assert told.startswith(f"{directory}/site-a.toml: ")
    assert re.search(dotted(sentence), told), told
    assert "\n" not in told
    assert OWN.text()[:20] not in told
    assert PSK not in told


SECURED = CLUSTER + STORE + '["https://10.8.0.9:2379"]\nca_file = "{}"\ncert_file = "{}"\nkey_file = "{}"\n'
PAIR = (
    "cert_file .*{} and key_file .*{} cannot be used together .*; name the certificate of this member and its own key"
)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (("ca.pem", "one.pem", "one.key"), None),
        (
            ("one.key", "one.pem", "one.key"),
            r"one\.key cannot be used as ca_file \(no certificate or crl found\); name",
        ),
        (("ca.pem", "one.pem", "two.key"), PAIR.format(r"one\.pem", r"two\.key")),
        (("ca.pem", "one.pem", "one.pem"), PAIR.format(r"one\.pem", r"one\.pem")),
        (("ca.pem", "locked.pem", "locked.key"), PAIR.format(r"locked\.pem", r"locked\.key")),
    ],
)
def test_certificates_that_are_of_no_use(directory: Path, files: tuple[str, str, str], sentence: str | None) -> None:
    authority = Authority(directory, "ca")
    authority.vouch("one")
    authority.vouch("two")
    authority.vouch("locked", passphrase=b"open sesame")
    (directory / "one.pem").chmod(0o600)  # a key's mode is looked at before its content
    text = WHOLE + SECURED.format(*files)
    if sentence is None:
        assert load(directory, text).cluster is not None
    else:
        with pytest.raises(ConfigError, match=rf"\[cluster\]: store: .*{sentence}"):
            load(directory, text)


def dotted(text: str) -> str:
    return re.escape(text).replace(re.escape("..."), ".*")


def test_a_secret_in_a_readable_configuration_is_refused(directory: Path) -> None:
    file = directory / "site-a.toml"
    file.write_text(f'[interface]\nprivate_key = "{OWN.text()}"\naddress = ["10.7.0.1/24"]\n')
    file.chmod(0o644)
    with pytest.raises(ConfigError, match=r"private_key: .* is open to other users \(mode 0644\)"):
        load_config(file)
    file.write_text(WHOLE.replace('preshared_key_file = "keys/alice.psk"', f'preshared_key = "{PSK}"'))
    with pytest.raises(ConfigError, match=r"preshared_key: .* is open to other users \(mode 0644\)"):
        load_config(file)


def test_files_that_cannot_be_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"absent.toml: there is no such file"):
        load_config(directory / "absent.toml")
    (directory / "dir.toml").mkdir()
    with pytest.raises(ConfigError, match=r"dir.toml: cannot be read"):
        load_config(directory / "dir.toml")
    (directory / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match=r"latin.toml: not UTF-8 at byte 2"):
        load_config(directory / "latin.toml")

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    file = directory / "site-a.toml"
    file.write_text(WHOLE)
    with monkeypatch.context() as patched:  # root may read everything, so the kernel's answer is played
        patched.setattr("centipede.keyfile.os.open", refuse)
        with pytest.raises(
            ConfigError, match=r"private_key_file: .*own.key cannot be read by this user; run as its owner"
        ):
            load_config(file)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(ConfigError, match=r"site-a.toml: this user may not read it; run as root"):
            load_config(file)


@pytest.mark.parametrize("name", ["site-a", "wg0", "a" * 15, "a_b=c+d.e-f"])
def test_names(name: str) -> None:
    assert parse_name(name) == name


@pytest.mark.parametrize("name", ["", "a" * 16, "a b", "a/b", ".", "..", "all", "é", "a\n"])
def test_names_no_interface_can_have(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name an interface"):
        parse_name(name)


def test_the_name_of_the_file_is_checked(directory: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"much-too-long-a-name.toml: 'much-too-long-a-name' cannot name an interface"
    ):
        load(directory, WHOLE, "much-too-long-a-name.toml")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("192.0.2.1:7", Target("192.0.2.1", 7, Endpoint("192.0.2.1", 7))),
        ("192.0.2.1", Target("192.0.2.1", 51820, Endpoint("192.0.2.1", 51820))),
        ("[2001:DB8:0::1]:7", Target("2001:DB8:0::1", 7, Endpoint("2001:db8::1", 7))),
        ("[fe80::1%eth0]:7", Target("fe80::1%eth0", 7, Endpoint("fe80::1%eth0", 7))),
        ("localhost:7", Target("localhost", 7, None)),
        ("a-b.example.net.", Target("a-b.example.net.", 51820, None)),
        ("4a.example", Target("4a.example", 51820, None)),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":7",
        "a:",
        "a:b",
        "a:-1",
        "a:65536",
        "[::1",
        "[::1]7",
        "[::1]:",
        "[1.2.3.4]:7",
        "::1",
        "-a:7",
        "a..b:7",
        "a_:٣",
        "224.0.0.1:7",
        "255.255.255.255:7",
        "[ff02::1]:7",
        "0.0.0.0:7",
        "[::]:7",
        "x" * 300,
        "a:7\n",
    ],
)
def test_texts_that_are_no_target(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "shown"), [("auto", "auto:51820"), ("eth0.100:7", "eth0.100:7"), ("[::1]", "[::1]:51820")]
)
def test_listen(text: str, shown: str) -> None:
    assert str(parse_listen(text)) == shown


def test_covering_finds_the_network_of_an_address() -> None:
    networks = [parse_network("10.0.0.0/8"), parse_network("fd07::/64")]
    assert covering("10.1.2.3", networks) == networks[0]
    assert covering("fd07::9%eth0", networks) == networks[1]
    assert covering("11.0.0.1", networks) is None
