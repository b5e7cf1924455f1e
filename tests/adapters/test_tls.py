"""TLS to a server with a private authority that asks for client certificates, and every way to get it wrong."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from stem.adapters.connect import connect_broker
from stem.adapters.redis import RedisStreamsBroker
from stem.adapters.redis import tls as tls_module
from stem.client import Stem
from stem.config import StemConfig, TLSConfig
from stem.control.controller import Controller
from stem.errors import BrokerError, BrokerRefusedError, ConfigError
from stem.sync import SyncStem
from stem.worker import Worker
from tests.servers import Server, free_port, redis_server_path

pytestmark = pytest.mark.debian_redis
ROOT: Final = Path(__file__).resolve().parents[2]
NOW: Final = datetime.datetime.now(datetime.UTC)
DAY: Final = datetime.timedelta(days=1)


@dataclass
class Authority:
    """A private one, which signs certificates into a folder."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        made = self._builder(self._subject, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.file = self._write(f"{self.name}.crt", made.sign(self._key, hashes.SHA256()))

    def sign(self, name: str, *, host: str = "127.0.0.1", expired: bool = False) -> tuple[str, str]:
        """Return the files of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = [x509.IPAddress(ipaddress.ip_address(host))] if host[0].isdigit() else [x509.DNSName(host)]
        made = self._builder(subject, key, expired=expired).add_extension(
            x509.SubjectAlternativeName(address), critical=False
        )
        path = self.folder / f"{name}.key"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return self._write(f"{name}.crt", made.sign(self._key, hashes.SHA256())), str(path)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, expired: bool = False
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 10 * DAY)
            .not_valid_after(NOW - DAY if expired else NOW + DAY)
        )

    def _write(self, name: str, certificate: x509.Certificate) -> str:
        path = self.folder / name
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return str(path)


class Secure:
    """A server with TLS, and the files of all who are about."""

    def __init__(self, folder: Path) -> None:
        self.ours, self.other = Authority(folder / "a", "ours"), Authority(folder / "b", "other")
        self.client = self.ours.sign("client")
        self.port = free_port()
        certificate, key = self.ours.sign("server")
        self.server = self.serve(self.port, certificate, key)

    def serve(self, port: int, certificate: str, key: str) -> Server:
        files = ("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", self.ours.file)
        options = ("--tls-port", str(port), *files, "--tls-auth-clients", "yes")
        return Server(kind="redis", tcp=True, options=options).start()

    @property
    def good(self) -> TLSConfig:
        return TLSConfig(ca_cert=self.ours.file, client_cert=self.client[0], client_key=self.client[1])

    def url(self, host: str = "127.0.0.1") -> str:
        return f"rediss://{host}:{self.port}"


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    path = redis_server_path()
    if path is None or shutil.which("ldd") is None or b"libssl" not in subprocess.check_output(["ldd", path]):
        pytest.skip("there is no redis-server with TLS on PATH")
    made = Secure(tmp_path_factory.mktemp("tls"))
    yield made
    made.server.remove()


async def test_a_task_goes_round_with_certificates_on_both_sides(secure: Secure, namespace: str) -> None:
    config = StemConfig(tls=secure.good)
    async with Stem.connect(secure.url(), namespace=namespace, config=config) as stem:
        task_id = await stem.enqueue("any.name")
        assert stem.broker.url == f"rediss://127.0.0.1:{secure.port}/0"
        clone = stem.broker.clone()
        await clone.control.subscribe()
        assert (await clone.statuses([task_id], timeline=False))[0] is not None
        await clone.close()

    def look() -> str:
        with SyncStem.connect(
            secure.url().replace("rediss", "valkeys"), namespace=namespace, config=config
        ) as blocking:
            return blocking.status(task_id).id

    assert await asyncio.to_thread(look) == task_id


def env(secure: Secure, namespace: str, **more: str) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "STEM_BROKER_URL": secure.url(),
        "STEM_NAMESPACE": namespace,
        "STEM_TLS_CA_CERT": secure.ours.file,
        "STEM_TLS_CLIENT_CERT": secure.client[0],
        "STEM_TLS_CLIENT_KEY": secure.client[1],
        **more,
    }


@pytest.mark.parametrize(
    "command", [["stemctl.main", "queues", "ls", "--json"], ["stem_tui", "--once", "--format", "json"]]
)
def test_the_programs_take_tls_from_their_environment(secure: Secure, namespace: str, command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env=env(secure, namespace),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def test_a_worker_runs_answers_and_stops_over_tls(secure: Secure, namespace: str) -> None:
    """Fetching, waiting, heartbeats, replies and pushes each have connections of their own."""
    config = StemConfig(tls=secure.good, heartbeat_interval_s=0.3)
    async with Stem.connect(secure.url(), namespace=namespace, config=config) as stem:

        @stem.task("add")
        async def add(left: int, right: int) -> int:
            return left + right

        worker = Worker(broker=stem.broker, registry=stem.registry, config=config)
        await worker.start()
        try:
            ids = [await add.enqueue(number, 1) for number in range(20)]
            results = [(await stem.wait_for(task_id, 20)).result for task_id in ids]
            pings = await Controller(stem.broker, timeout_s=10.0).ping()
            stopped = await Controller(stem.broker, timeout_s=10.0).shutdown(wait_s=10)
            code = await worker.wait()
        finally:
            await worker.shutdown("hard")

    assert results == [number + 1 for number in range(20)]
    assert (pings.expected, pings.replied, stopped.applied, code) == (1, 1, 1, 0)


async def test_no_connection_waits_for_the_goodbye_of_a_server_that_hangs(secure: Secure, namespace: str) -> None:
    """Neither one that was used, nor one on which somebody waited and was cancelled, as a stopping worker does."""
    before = sockets()
    broker = connect_broker(secure.url(), namespace=namespace, tls=secure.good)
    assert isinstance(broker, RedisStreamsBroker)
    await broker.census.info()
    await broker.control.subscribe()
    waits = asyncio.create_task(broker.control.wake(60))
    await asyncio.sleep(0)
    assert len(sockets() - before) >= 2
    secure.server.sigstop()
    try:
        waits.cancel()
        await asyncio.wait({waits})
        async with asyncio.timeout(5):
            await broker.control.close()
            await broker.close()
        await asyncio.sleep(0)  # the loop closes a socket on its next turn
        assert sockets() - before == set()
    finally:
        secure.server.sigcont()


def sockets() -> set[str]:
    """Return what this process has open, by its number in the kernel."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(each.readlink()))
    return {each for each in found if each.startswith("socket:")}


async def failure(url: str, tls: TLSConfig, namespace: str) -> str:
    """Return what is said of a connection that must not come about."""
    broker = connect_broker(url, namespace=namespace, tls=tls)
    try:
        with pytest.raises(BrokerError) as caught:
            await broker.census.info()
        assert not isinstance(caught.value, BrokerRefusedError), caught.value
        return str(caught.value)
    finally:
        await broker.close()


async def test_each_wrong_certificate_is_named(secure: Secure, namespace: str) -> None:
    good, ours, (cert, key) = secure.good, secure.ours.file, secure.client
    assert "STEM_TLS_CA_CERT" in await failure(secure.url(), TLSConfig(client_cert=cert, client_key=key), namespace)
    wrong_authority = TLSConfig(ca_cert=secure.other.file, client_cert=cert, client_key=key)
    assert "nobody known here has signed" in await failure(secure.url(), wrong_authority, namespace)
    assert "asks for a client certificate" in await failure(secure.url(), TLSConfig(ca_cert=ours), namespace)
    stranger = secure.other.sign("stranger")
    foreign = TLSConfig(ca_cert=ours, client_cert=stranger[0], client_key=stranger[1])
    said = await failure(secure.url(), foreign, namespace)
    assert "does not know who signed STEM_TLS_CLIENT_CERT" in said or "does not accept STEM_TLS_CLIENT_CERT" in said
    old = secure.ours.sign("old", expired=True)
    expired = TLSConfig(ca_cert=ours, client_cert=old[0], client_key=old[1])
    said = await failure(secure.url(), expired, namespace)
    assert "STEM_TLS_CLIENT_CERT has expired" in said or "does not accept STEM_TLS_CLIENT_CERT" in said
    assert "for another host" in await failure(secure.url("localhost"), good, namespace)


async def test_a_server_whose_own_certificate_is_wrong_is_named(secure: Secure, namespace: str) -> None:
    port = free_port()
    server = secure.serve(port, *secure.ours.sign("late", expired=True))
    try:
        said = await failure(f"rediss://127.0.0.1:{port}", secure.good, namespace)
        assert "the server's certificate has expired" in said
    finally:
        server.remove()


async def test_tls_to_a_plain_port_and_plain_text_to_a_tls_port_are_named(secure: Secure, namespace: str) -> None:
    said = await failure(f"rediss://127.0.0.1:{secure.server.port}", secure.good, namespace)
    assert "no TLS on this port" in said or "does not speak TLS on this port" in said
    said = await failure(f"redis://127.0.0.1:{secure.port}", TLSConfig(), namespace)
    assert "rediss://" in said


def test_files_that_cannot_be_used_are_named_at_once(secure: Secure, namespace: str, tmp_path: Path) -> None:
    cert, key = secure.client
    other_key = secure.other.sign("else")[1]
    empty = tmp_path / "empty"
    empty.write_text("")
    cases = [
        (TLSConfig(ca_cert="/nowhere/ca.pem"), "STEM_TLS_CA_CERT: /nowhere/ca.pem cannot be read: No such file"),
        (TLSConfig(ca_cert=str(empty)), "holds no certificate"),
        (TLSConfig(client_key=key), "STEM_TLS_CLIENT_CERT is not"),
        (TLSConfig(client_cert=cert, client_key=other_key), "the key does not belong to the certificate"),
        (TLSConfig(client_cert=cert), "certificate and key are not both there"),
        (TLSConfig(client_cert=cert, client_key="/nowhere/key"), "STEM_TLS_CLIENT_KEY: /nowhere/key cannot be read"),
    ]
    for tls, says in cases:
        with pytest.raises(ConfigError, match=says):
            connect_broker(secure.url(), namespace=namespace, tls=tls)
    with pytest.raises(ConfigError, match="write rediss://"):
        connect_broker("redis://127.0.0.1:1", namespace=namespace, tls=secure.good)


async def test_verification_is_left_out_only_with_a_loud_word(
    secure: Secure, namespace: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_module, "_warned", set())
    tls = TLSConfig(client_cert=secure.client[0], client_key=secure.client[1], allow_insecure=True)
    with caplog.at_level(logging.WARNING, "stem.tls"):
        broker = connect_broker(secure.url("localhost"), namespace=namespace, tls=tls)
        try:
            await broker.census.info()
        finally:
            await broker.close()

    assert [record.getMessage().partition(" ")[0] for record in caplog.records if record.name == "stem.tls"] == [
        "tls.unverified"
    ]
