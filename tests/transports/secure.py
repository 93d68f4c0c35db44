"""Private brokers that speak TLS, with certificates of a private authority, and want a password."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from private_services import kafka, nats, rabbitmq, redis
from private_services.base import FailedError, PrivateService, RunAs, UnavailableError
from private_services.control import Control
from private_services.processes import LOOPBACK, free_port

USER, PASSWORD = "tidings", "pa55-w0rd-that-nobody-sees"


@dataclass(frozen=True)
class Certificates:
    """An authority and what it has signed for the loopback address."""

    directory: Path

    @property
    def authority(self) -> Path:
        return self.directory / "authority.pem"

    def text(self, name: str) -> str:
        return (self.directory / f"{name}.pem").read_text()


def make_certificates(directory: Path) -> Certificates:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
    usage = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl(
        "req", "-x509", *key, "-keyout", "authority-key.pem", "-out", "authority.pem", "-days", "2", "-subj", "/CN=Test authority", *usage
    )
    openssl("req", *key, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=localhost")
    (directory / "names").write_text(f"subjectAltName=IP:{LOOPBACK},DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n")
    signed = ("-CA", "authority.pem", "-CAkey", "authority-key.pem", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl("x509", "-req", "-in", "request.pem", "-out", "certificate.pem", *signed)
    return Certificates(directory)


class _Secure:
    def __init__(self, certificates: Certificates) -> None:
        super().__init__()
        self.certificates = certificates
        self.secure_port = free_port()

    def _write(self, directory: Path, run_as: RunAs) -> None:
        for name in ("authority", "key", "certificate"):
            run_as("sh", "-c", 'umask 077; cat >"$0"', directory / f"{name}.pem", stdin=self.certificates.text(name))
        both = self.certificates.text("key") + self.certificates.text("certificate")
        run_as("sh", "-c", 'umask 077; cat >"$0"', directory / "both.pem", stdin=both)


class SecureRedis(_Secure, redis.Redis):
    def prepare(self, programs: Path, directory: Path, run_as: RunAs) -> None:
        self._write(directory, run_as)

    def command(self, programs: Path, directory: Path, port: int) -> list[str]:
        names = {"tls-cert-file": "certificate", "tls-key-file": "key", "tls-ca-cert-file": "authority"}
        files = [part for option, name in names.items() for part in (f"--{option}", str(directory / f"{name}.pem"))]
        secure = ["--tls-port", str(self.secure_port), "--tls-auth-clients", "no"]
        # Whoever uses the other port may do nothing but ask whether it is alive.
        users = ["--user", USER, "on", f">{PASSWORD}", "~*", "&*", "+@all", "--user", "default", "on", "nopass", "-@all", "+ping"]
        return [*super().command(programs, directory, port), *secure, *files, *users]


class SecureNATS(_Secure, nats.NATS):
    def prepare(self, programs: Path, directory: Path, run_as: RunAs) -> None:
        self._write(directory, run_as)

    def command(self, programs: Path, directory: Path, port: int) -> list[str]:
        self.secure_port = port
        tls = ["--tls", "--tlscert", str(directory / "certificate.pem"), "--tlskey", str(directory / "key.pem")]
        return [*super().command(programs, directory, port), *tls, "--user", USER, "--pass", PASSWORD]


class SecureRabbitMQ(_Secure, rabbitmq.RabbitMQ):
    def prepare(self, programs: Path, directory: Path, run_as: RunAs) -> None:
        super().prepare(programs, directory, run_as)
        self._write(directory, run_as)
        files = {"cacertfile": "authority", "certfile": "certificate", "keyfile": "key"}
        text = f"listeners.ssl.1 = {LOOPBACK}:{self.secure_port}\nssl_options.verify = verify_none\n"
        text += "".join(f"ssl_options.{option} = {directory / f'{name}.pem'}\n" for option, name in files.items())
        text += f"default_pass = {PASSWORD}\n"
        run_as("sh", "-c", 'grep -v default_pass "$0" >"$0.new"; cat >>"$0.new"; mv "$0.new" "$0"', directory / "rabbitmq.conf", stdin=text)


class SecureKafka(_Secure, kafka.Kafka):
    def prepare(self, programs: Path, directory: Path, run_as: RunAs) -> None:
        self._write(directory, run_as)
        super().prepare(programs, directory, run_as)

    def _settings(self, directory: Path, port: int, controller: int) -> Path:
        file = super()._settings(directory, port, controller)
        module = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        lines = [line for line in file.read_text().splitlines() if not line.startswith(("listeners=", "advertised", "listener.security"))]
        lines += [
            f"listeners=PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller},SECURE://{LOOPBACK}:{self.secure_port}",
            f"advertised.listeners=PLAINTEXT://{LOOPBACK}:{port},SECURE://{LOOPBACK}:{self.secure_port}",
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL",
            "inter.broker.listener.name=PLAINTEXT",
            "listener.name.secure.sasl.enabled.mechanisms=PLAIN",
            f'listener.name.secure.plain.sasl.jaas.config={module} user_{USER}="{PASSWORD}";',
            "listener.name.secure.ssl.keystore.type=PEM",
            f"listener.name.secure.ssl.keystore.location={directory / 'both.pem'}",
        ]
        file.write_text("\n".join(lines) + "\n")
        return file


KINDS: dict[str, type[SecureRedis | SecureNATS | SecureRabbitMQ | SecureKafka]] = {
    "redis": SecureRedis,
    "nats": SecureNATS,
    "rabbitmq": SecureRabbitMQ,
    "kafka": SecureKafka,
}


@contextmanager
def secure_broker(name: str, directory: Path, certificates: Certificates) -> Iterator[str]:
    """Start one; give its secure `host:port`."""
    service = KINDS[name](certificates)
    checked: PrivateService = service
    try:
        with Control(directory, say=lambda _sentence: None).use(checked) as url:
            port = urlsplit(url).port if name == "nats" else service.secure_port
            yield f"{LOOPBACK}:{port}"
    except (UnavailableError, FailedError) as error:
        pytest.skip(f"no {name}: {error}")
