"""TLS with client certificates, live: who is let in, and what those are told who are not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fitq import Client
from fitq_shared.errors import AccessDenied, ServerUnreachable
from fitq_shared.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Configured, Server, Worker

WAIT_SECONDS = 60
JOBS = [{"id": "a", "polynomial": [1, 2], "degree": 1, "steps": 20}]


class Authority:
    """An authority that signs certificates into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.path = folder / f"{name}.pem"
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        signed = self._builder(self._name, self._key, days=1).add_extension(constraints, critical=True)
        self.path.write_bytes(signed.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def sign(self, name: str, days: int = 1) -> tuple[str, str]:
        """Paths of a certificate for a host or a client of this name and of its key; it has expired where `days` < 0."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        signed = self._builder(subject, key, days).add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        paths = [self._folder / f"{self.path.stem}-{name}-{days}.{kind}" for kind in ("crt", "key")]
        paths[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        paths[1].write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)  # readable by a worker
        )
        return str(paths[0]), str(paths[1])

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - timedelta(days=3)).not_valid_after(now + timedelta(days=days))


class Encrypted(NamedTuple):
    """What a server behind TLS trusts, and settings that it accepts."""

    settings: Settings
    authority: Authority
    folder: Path


@pytest.fixture(scope="module")
def start_encrypted(server: Server, configured_server: Configured, tmp_path_factory: pytest.TempPathFactory) -> Configured:
    """The function that runs a server that asks for client certificates; `name` and `days` are those of its own."""
    command = [server.binary, "--port", "0", "--tls-port", "1"]  # without a certificate it ends at once
    trial = subprocess.run(command, capture_output=True, text=True, check=False)
    if any(words in trial.stdout + trial.stderr for words in ("Bad directive", "Failed finding TLS support")):
        pytest.skip("this server is built without TLS")

    def run(authority: Authority, name: str = "localhost", days: int = 1) -> AbstractContextManager[int]:
        certificate, key = authority.sign(name, days)
        own = {"tls_cert_file": certificate, "tls_key_file": key, "tls_ca_cert_file": authority.path}
        folder = tmp_path_factory.mktemp("encrypted")
        return configured_server(folder, tls=True, tls_auth_clients="yes", **own)

    return run


@pytest.fixture(scope="module")
def encrypted(start_encrypted: Configured, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    """A server with a certificate for `localhost`, and a client that may come in."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder, "authority")
    certificate, key = authority.sign("client")
    with start_encrypted(authority) as port:
        url, ca = f"rediss://localhost:{port}/0", str(authority.path)
        yield Encrypted(Settings(redis_url=url, tls_ca=ca, tls_certificate=certificate, tls_key=key), authority, folder)


def changed(settings: Settings, **fields: str) -> Client:
    return Client(msgspec.structs.replace(settings, **fields))


def test_client_worker_check_and_broker_speak_tls(encrypted: Encrypted, start_worker: Callable[..., Worker]) -> None:
    """All with the same variables; the log of the worker is without complaint."""
    worker = start_worker(encrypted.settings)
    client = Client(encrypted.settings)
    submission = client.submit(JOBS)
    assert submission.wait(WAIT_SECONDS).done_jobs == 1
    environment = os.environ | encrypted.settings.environment()
    command = [sys.executable, "-m", "fitq_worker", "check", "--device", "cpu"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert (done.returncode, "ok\tserver\trediss://localhost" in done.stdout) == (0, True), done.stdout
    submission.delete()
    assert worker.stop() == 0
    assert not any(word in worker.log.read_text() for word in ("Traceback", "ERROR", "insecure"))


def test_an_unknown_authority_is_refused(encrypted: Encrypted) -> None:
    """Another one, or those of the system."""
    other = Authority(encrypted.folder, "other")
    for authority in (str(other.path), ""):
        with pytest.raises(AccessDenied, match=r"authority that is not trusted .* set FITQ_TLS_CA"):
            changed(encrypted.settings, tls_ca=authority).submissions()


def test_another_name_is_refused(encrypted: Encrypted) -> None:
    """Whoever holds some certificate of the authority is not the server yet."""
    url = encrypted.settings.redis_url.replace("localhost", "127.0.0.1")
    with pytest.raises(AccessDenied, match=r"for another name \(.*127\.0\.0\.1.*FITQ_REDIS_URL"):
        changed(encrypted.settings, redis_url=url).submissions()


def test_a_server_whose_certificate_has_expired_is_refused(encrypted: Encrypted, start_encrypted: Configured) -> None:
    with start_encrypted(encrypted.authority, days=-1) as port:
        url = f"rediss://localhost:{port}/0"
        with pytest.raises(AccessDenied, match="certificate of the server has expired: renew it"):
            changed(encrypted.settings, redis_url=url).submissions()


def test_a_client_without_certificate_is_told_so(encrypted: Encrypted) -> None:
    with pytest.raises(AccessDenied, match="asks for a client certificate, and none was given: set FITQ_TLS_CERTIFICATE"):
        changed(encrypted.settings, tls_certificate="", tls_key="").submissions()


@pytest.mark.parametrize(
    ("days", "text"), [(1, "does not accept|signed by the authority"), (-1, "has expired|does not accept")]
)
def test_a_certificate_that_the_server_does_not_trust_is_refused(encrypted: Encrypted, days: int, text: str) -> None:
    """Of another authority, or too old."""
    signer = Authority(encrypted.folder, "stranger") if days > 0 else encrypted.authority
    certificate, key = signer.sign("somebody", days)
    with pytest.raises(AccessDenied, match=text):
        changed(encrypted.settings, tls_certificate=certificate, tls_key=key).submissions()


def test_plain_text_is_refused(encrypted: Encrypted) -> None:
    url = encrypted.settings.redis_url.replace("rediss", "redis")
    with pytest.raises(ServerUnreachable, match="rediss://"):
        changed(encrypted.settings, redis_url=url, tls_ca="", tls_certificate="", tls_key="").submissions()


def test_an_outage_is_no_refusal(encrypted: Encrypted, start_encrypted: Configured) -> None:
    """Workers wait for a server that ends; they end for one that does not let them in."""
    with start_encrypted(encrypted.authority) as port:
        client = changed(encrypted.settings, redis_url=f"rediss://localhost:{port}/0")
        assert client.submissions() == []
    for _ in range(2):
        with pytest.raises(ServerUnreachable):
            client.submissions()


def test_a_worker_that_is_refused_ends_and_says_why(encrypted: Encrypted, start_worker: Callable[..., Worker]) -> None:
    worker = start_worker(msgspec.structs.replace(encrypted.settings, tls_certificate="", tls_key=""))
    assert worker.process.wait(WAIT_SECONDS) == 4
    assert "asks for a client certificate" in worker.log.read_text()
