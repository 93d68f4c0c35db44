"""Apache Kafka: the real one, broker and controller in one process (KRaft), from Maven Central."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from pathlib import Path

from private_services import debian
from private_services.base import FailedError, RunAs
from private_services.processes import LOOPBACK, free_port

VERSION = "4.1.0"

#: Kafka's broker runs on this Java and newer ones.
JAVA = 17

_CLUSTER = "dGlkaW5ncy10ZXN0LWthZg"

# What is written to its log is what it has to say when it does not start.
_PROJECT = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tidings.private-services</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


class Kafka:
    """A cluster of one, without authentication, on this machine's loopback; topics exist when somebody has created them.

    Args:
        advertised: the port that it tells its clients, when that is a proxy's; None is its own.
    """

    name = "kafka"
    variable = "TIDINGS_TEST_KAFKA"
    package = f"Apache Kafka {VERSION}"
    accounts: tuple[str, ...] = ()
    stop_signals: tuple[int, ...] = (signal.SIGTERM,)

    def __init__(self, advertised: int | None = None) -> None:
        self._advertised = advertised

    def find(self) -> Path | None:
        """Return the file that lists its jars; a distribution in the directory TIDINGS_KAFKA_HOME, where given, is the only place looked at."""
        if _java() is None:
            return None
        if chosen := os.environ.get("TIDINGS_KAFKA_HOME"):
            libraries = Path(chosen) / "libs"
            return libraries if libraries.is_dir() else None
        listed = _list()
        if not listed.exists():
            return None
        return listed if all(map(os.path.exists, _jars(listed).split(os.pathsep))) else None

    def before_install(self) -> list[tuple[Path, str]]:
        """Nothing of it is a package of Debian."""
        return []

    def why_not(self) -> str | None:
        """Return why Maven cannot bring it."""
        if os.environ.get("TIDINGS_SERVICES_INSTALL", "").lower() in {"0", "no", "false"}:
            return "TIDINGS_SERVICES_INSTALL forbids installing packages"
        if _java() is not None and shutil.which("mvn"):
            return None
        reason = debian.why_not()
        return None if reason is None else f"Java {JAVA} and Maven, which bring it, are not both here, and {reason}"

    def fetch(self) -> None:
        """Let Maven bring its jars into the local repository, and note where they are."""
        if missing := [package for package, there in (("openjdk-17-jre-headless", _java()), ("maven", shutil.which("mvn"))) if not there]:
            debian.install(" ".join(missing), [])
        listed = _list()
        listed.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=listed.parent) as directory:
            project, output = Path(directory, "pom.xml"), Path(directory, "jars")
            project.write_text(_PROJECT, encoding="utf-8")
            done = subprocess.run(
                ["mvn", "--quiet", "--batch-mode", "--file", project, "dependency:build-classpath", f"-Dmdep.outputFile={output}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise FailedError("\n".join([f"Maven could not bring {self.package}:", *done.stdout.strip().splitlines()[-10:]]))
            output.replace(listed)

    def prepare(self, programs: Path, directory: Path, run_as: RunAs) -> None:
        """Format its storage."""
        settings = self._settings(directory, free_port(), free_port())
        run_as(*_run(programs, "kafka.tools.StorageTool"), "format", "--cluster-id", _CLUSTER, "--config", settings)

    def command(self, programs: Path, directory: Path, port: int) -> list[str]:
        """Write the configuration for this port, and return the command line."""
        return [*_run(programs, "kafka.Kafka"), str(self._settings(directory, port, free_port()))]

    def ready(self, port: int) -> bool:
        """Tell whether the broker is registered with its controller: it then names itself in its metadata."""
        # Metadata, version 1, of no topic: https://kafka.apache.org/protocol.html#The_Messages_Metadata
        request = struct.pack("!hhih", 3, 1, 1, -1) + struct.pack("!i", 0)
        try:
            with socket.create_connection((LOOPBACK, port), timeout=5) as connection:
                connection.sendall(struct.pack("!i", len(request)) + request)
                answer = connection.recv(4096)
                return len(answer) >= 12 and struct.unpack("!i", answer[8:12])[0] == 1
        except OSError:
            return False

    def url(self, port: int) -> str:
        """Return the URL of the bootstrap server."""
        return f"kafka://{LOOPBACK}:{port}"

    def _settings(self, directory: Path, port: int, controller: int) -> Path:
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
            "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{self._advertised or port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(directory / "data"),
            "auto.create.topics.enable": "false",
            "num.partitions": "4",
            # One broker, which has to be quick: every internal topic with one replica and few partitions.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
        }
        file = directory / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")
        return file


def _run(programs: Path, main: str) -> list[str]:
    # One small machine: start quickly rather than run fast for long.
    options = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    return [_java() or "java", *options, "-cp", _jars(programs), main]


def _jars(programs: Path) -> str:
    return f"{programs}/*" if programs.is_dir() else programs.read_text(encoding="utf-8").strip()


def _list() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "tidings-private-services", f"kafka-{VERSION}.jars")


def _java() -> str | None:
    """Return a Java that is new enough."""
    home = os.environ.get("JAVA_HOME")
    for program in (f"{home}/bin/java" if home else None, shutil.which("java")):
        if program is None or not os.access(program, os.X_OK):
            continue
        asked = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
        if (found := re.search(r'version "(\d+)', asked.stderr)) and int(found[1]) >= JAVA:
            return program
    return None
