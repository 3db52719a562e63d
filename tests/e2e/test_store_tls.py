"""An etcd that speaks TLS and knows members by certificate: who gets in, and what the others are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from centipede.cluster.etcd import Etcd, Range, StoreError
from centipede.tls import tls_context
from lab.host import Host
from lab.store import unavailable
from tests.authority import Authority
from tests.e2e.world import DEADLINE_S

pytestmark = pytest.mark.netns

ADDRESS = "127.0.0.1"
ENDPOINT = f"https://{ADDRESS}:2379"


@dataclass
class Secured:
    """A host with the etcd, and whose certificates it takes."""

    host: Host
    authority: Authority
    stranger: Authority

    def ask(self, ca: Authority, files: tuple[Path, Path] | tuple[None, None], endpoint: str = ENDPOINT) -> int:
        """Make one request; give the revision of the answer."""
        context = tls_context(ca.file, *files)

        def there() -> int:
            with closing(Etcd([endpoint], context)) as etcd:
                return etcd.look([Range("/")]).revision

        return self.host.call(there)

    def refusal(self, ca: Authority, files: tuple[Path, Path] | tuple[None, None], endpoint: str) -> str:
        with pytest.raises(StoreError) as refusal:
            self.ask(ca, files, endpoint)
        return str(refusal.value)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    if (reason := unavailable()) is not None:
        pytest.skip(f"this machine can run no store: {reason}")
    directory = tmp_path_factory.mktemp("tls")
    authority, stranger = Authority(directory, "authority"), Authority(directory, "stranger")
    cert_file, key_file = authority.vouch("store", ADDRESS)
    host = Host("store", directory / "host")
    made = Secured(host, authority, stranger)
    member = authority.vouch("ready")

    def answers() -> bool:
        try:
            return made.ask(authority, member) > 0
        except StoreError:
            return False

    try:
        host.start(
            [
                *("etcd", "--data-dir", host.state_directory / "etcd"),
                *("--listen-client-urls", "https://0.0.0.0:2379", "--advertise-client-urls", ENDPOINT),
                *("--client-cert-auth", "--trusted-ca-file", authority.file),
                *("--cert-file", cert_file, "--key-file", key_file),
            ],
            ready=answers,
            ready_timeout_s=DEADLINE_S,
        )
        yield made
    finally:
        host.close()


def test_a_member_with_a_certificate_is_let_in(secured: Secured) -> None:
    assert secured.ask(secured.authority, secured.authority.vouch("member")) > 0


def test_a_store_that_others_vouch_for_is_not_talked_to(secured: Secured) -> None:
    refusal = secured.refusal(secured.stranger, secured.authority.vouch("deceived"), ENDPOINT)
    reason = "unable to get local issuer certificate"
    assert refusal == f"{ENDPOINT}: its certificate does not pass: {reason}; check ca_file and the address in endpoints"


def test_a_store_at_another_address_than_its_certificate_has_is_not_talked_to(secured: Secured) -> None:
    endpoint = "https://127.0.0.2:2379"
    refusal = secured.refusal(secured.authority, secured.authority.vouch("astray"), endpoint)
    assert refusal.startswith(f"{endpoint}: its certificate does not pass: IP address mismatch, ")
    assert refusal.endswith("check ca_file and the address in endpoints")


@pytest.mark.parametrize("vouched", [True, False])
def test_nobody_else_is_let_in(secured: Secured, vouched: bool) -> None:
    files = secured.stranger.vouch("intruder") if vouched else (None, None)
    refusal = secured.refusal(secured.authority, files, ENDPOINT)
    assert refusal == f"{ENDPOINT}: it wants a certificate that it knows; check cert_file and key_file"


def test_a_port_without_tls_is_told(secured: Secured) -> None:
    endpoint = f"https://{ADDRESS}:2380"  # that of etcd among its own
    refusal = secured.refusal(secured.authority, (None, None), endpoint)
    assert refusal == f"{endpoint}: it does not speak TLS; check the port in endpoints, or write http"


def test_tls_spoken_to_without_is_told(secured: Secured) -> None:
    endpoint = f"http://{ADDRESS}:2379"
    refusal = secured.refusal(secured.authority, (None, None), endpoint)
    assert refusal == f"{endpoint}: it does not answer in HTTP; if it speaks TLS, write https in endpoints"
