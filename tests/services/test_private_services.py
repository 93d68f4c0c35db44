from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from private_services import cli, containers, debian, processes
from private_services.base import FailedError, RunAs, UnavailableError
from private_services.control import Control
from private_services.postgresql import PostgreSQL

SERVER = """
import pathlib, socket, sys
directory, port = sys.argv[1:]
pathlib.Path(directory, "started").touch()
with socket.create_server(("127.0.0.1", int(port))) as server:
    while True:
        connection, _ = server.accept()
        connection.sendall(b"here")
        connection.close()
"""


class Echo:
    """The smallest service that there can be."""

    name = "echo"
    variable = "TIDINGS_TEST_ECHO"
    package = "echo"
    accounts: tuple[str, ...] = ()
    stop_signals: tuple[int, ...] = (signal.SIGTERM,)
    source = SERVER

    def find(self) -> Path | None:
        return Path(sys.executable)

    def before_install(self) -> list[tuple[Path, str]]:
        return []

    def prepare(self, programs: Path, directory: Path, run_as: RunAs) -> None:
        run_as(programs, "-c", f"open({str(directory / 'prepared')!r}, 'x').close()")

    def command(self, programs: Path, directory: Path, port: int) -> list[str]:
        return [str(programs), "-c", self.source, str(directory), str(port)]

    def ready(self, port: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                return connection.recv(4) == b"here"
        except OSError:
            return False

    def url(self, port: int) -> str:
        return f"echo://127.0.0.1:{port}"


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def control(tmp_path: Path, echo: Echo) -> Iterator[Control]:
    checkout = tmp_path / "a checkout"
    checkout.mkdir()
    control = Control(checkout, say=lambda _sentence: None)
    yield control
    control.stop(echo)


def pid_of(control: Control) -> int:
    return int(control.how(Echo()).split()[1].rstrip(","))


def test_starting_twice_gives_the_same_server(control: Control, echo: Echo) -> None:
    url = control.start(echo)
    pid = pid_of(control)
    assert control.start(echo) == url
    assert control.url(echo) == url
    assert pid_of(control) == pid


def test_stopping_throws_everything_away_and_may_be_repeated(control: Control, echo: Echo) -> None:
    control.start(echo)
    assert control.stop(echo)
    assert control.url(echo) is None
    assert not control.stop(echo)
    assert {path.name for path in control.state.iterdir()} == {"echo.lock", "echo.log"}


def test_what_a_killed_server_left_is_cleared_away(control: Control, echo: Echo) -> None:
    control.start(echo)
    pid = pid_of(control)
    os.kill(pid, signal.SIGKILL)
    assert processes.wait_until(lambda: processes.birth(pid) is None, 10)
    assert control.url(echo) is None
    control.start(echo)
    assert pid_of(control) != pid


def test_another_process_with_the_recorded_id_is_not_taken_for_the_server(control: Control, echo: Echo) -> None:
    control.start(echo)
    record = control.state / "echo.json"
    pid = pid_of(control)
    recorded = record.read_text()
    control.stop(echo)
    record.write_text(recorded.replace(f'"pid": {pid}', f'"pid": {os.getpid()}'))
    assert control.url(echo) is None
    assert not control.stop(echo)


def test_two_checkouts_have_a_server_each(control: Control, echo: Echo, tmp_path: Path) -> None:
    (tmp_path / "another").mkdir()
    another = Control(tmp_path / "another", say=lambda _sentence: None)
    try:
        assert control.start(echo) != another.start(echo)
        another.stop(echo)
        assert control.url(echo) is not None
    finally:
        another.stop(echo)


def test_a_copied_checkout_leaves_the_server_of_the_original_alone(control: Control, echo: Echo, tmp_path: Path) -> None:
    control.start(echo)
    copy = tmp_path / "copy"
    (copy / ".services").mkdir(parents=True)
    (copy / ".services" / "echo.json").write_bytes((control.state / "echo.json").read_bytes())
    assert Control(copy, say=lambda _sentence: None).url(echo) is None
    assert not Control(copy, say=lambda _sentence: None).stop(echo)
    assert control.url(echo) is not None


def test_a_server_that_ends_at_once_is_reported_with_its_last_words(control: Control, echo: Echo) -> None:
    echo.source = "raise SystemExit('the configuration is wrong')"
    with pytest.raises(FailedError, match="the configuration is wrong"):
        control.start(echo)
    assert not (control.state / "echo.json").exists()
    assert not (control.state / "echo").exists()


@pytest.fixture
def nothing_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without PostgreSQL, on which nothing may be installed and no Docker engine answers."""
    monkeypatch.setattr(cli, "SERVICES", {"postgresql": PostgreSQL()})
    for name in ("CI", "TIDINGS_TEST_POSTGRESQL", "TIDINGS_TEST_POSTGRESQL_MISSING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TIDINGS_POSTGRESQL_BIN", str(tmp_path))
    monkeypatch.setenv("TIDINGS_SERVICES_INSTALL", "no")
    monkeypatch.setattr(containers, "why_not", lambda: "there is no docker")


PRINT = [sys.executable, "-c", "import os; print({k: v for k, v in os.environ.items() if k.startswith('TIDINGS_TEST_')})"]
REASON = "postgresql is not installed, TIDINGS_SERVICES_INSTALL forbids installing packages, and there is no docker."


@pytest.mark.usefixtures("nothing_to_run")
def test_a_service_that_cannot_be_had_is_skipped_with_the_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["start"], tmp_path) == 3
    assert capfd.readouterr().err.strip() == REASON
    assert cli.main(["run", "--", *PRINT], tmp_path) == 0
    assert REASON in capfd.readouterr().out


@pytest.mark.usefixtures("nothing_to_run")
def test_in_ci_a_service_that_could_be_had_may_not_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(package: str, meanwhile: object) -> None:
        raise FailedError(f"{package} could not be fetched")

    monkeypatch.setattr(debian, "why_not", lambda: None)
    monkeypatch.setattr(debian, "install", fails)
    assert cli.main(["run", "--", *PRINT], tmp_path) == 0
    assert "could not be fetched" in capfd.readouterr().out
    monkeypatch.setenv("CI", "true")
    assert cli.main(["run", "--", *PRINT], tmp_path) == 1
    captured = capfd.readouterr()
    assert "could not be fetched" in captured.err
    assert captured.out == ""


@pytest.mark.usefixtures("nothing_to_run")
def test_a_server_that_the_user_names_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDINGS_TEST_POSTGRESQL", "postgresql://elsewhere/db")
    assert cli.main(["run", "--", *PRINT], tmp_path) == 0
    assert "postgresql://elsewhere/db" in capfd.readouterr().out


def test_run_hands_on_the_exit_code_and_stops_only_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, echo: Echo) -> None:
    monkeypatch.setattr(cli, "SERVICES", {"echo": echo})
    control = Control(tmp_path, say=lambda _sentence: None)
    exits = [sys.executable, "-c", "raise SystemExit(7)"]
    assert cli.main(["run", "echo", "--", *exits], tmp_path) == 7
    assert control.url(echo) is None
    control.start(echo)
    try:
        assert cli.main(["run", "echo", "--", *exits], tmp_path) == 7
        assert control.url(echo) is not None
    finally:
        control.stop(echo)


def test_the_last_of_several_users_stops_the_server(control: Control, echo: Echo) -> None:
    with control.use(echo) as url:
        with control.use(echo) as same:
            assert same == url
        assert control.url(echo) == url
    assert control.url(echo) is None


def test_a_server_that_somebody_asked_for_outlives_its_users(control: Control, echo: Echo) -> None:
    with control.use(echo):
        control.start(echo)
    assert control.url(echo) is not None


def test_without_any_way_to_run_it_the_reasons_are_all_named(control: Control, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Echo, "find", lambda _self: None)
    monkeypatch.setattr(debian, "why_not", lambda: "only root may install packages")
    monkeypatch.setattr(containers, "why_not", lambda: "no Docker engine answers")
    with pytest.raises(UnavailableError, match="only root may install packages, and no Docker engine answers"):
        control.start(echo)


BREEDER = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
"""


def test_what_a_server_has_detached_from_itself_ends_with_it(control: Control, echo: Echo) -> None:
    echo.source = BREEDER + SERVER
    control.start(echo)
    mark = str(control.state / "echo")
    assert len(processes.marked(mark)) == 2
    control.stop(echo)
    assert processes.marked(mark) == []


def test_a_server_whose_starter_was_killed_before_it_could_note_it_is_found(control: Control, echo: Echo) -> None:
    url = control.start(echo)
    (control.state / "echo.json").unlink()
    assert control.url(echo) is None
    assert control.start(echo) != url
    assert len(processes.marked(str(control.state / "echo"))) == 1


def test_a_crashed_server_comes_back_on_its_port_and_with_its_data(control: Control, echo: Echo) -> None:
    url = control.start(echo)
    before = control.state / "echo" / "before"
    before.touch()
    control.crash(echo)
    assert control.url(echo) is None
    assert control.revive(echo) == url
    assert control.url(echo) == url
    assert before.exists()


def test_services_start_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    slow = "import time; time.sleep(1)\n" + SERVER
    services = {}
    for number in range(4):
        service = Echo()
        service.name, service.variable, service.source = f"echo{number}", f"TIDINGS_TEST_ECHO{number}", slow
        services[service.name] = service
    monkeypatch.setattr(cli, "SERVICES", services)
    began = time.monotonic()
    assert cli.main(["run", "all", "--", *PRINT], tmp_path) == 0
    assert time.monotonic() - began < 3.5, "one after the other they would take four seconds and more"
    printed = capfd.readouterr().out
    assert all(name in printed for name in ("TIDINGS_TEST_ECHO0", "TIDINGS_TEST_ECHO3"))
    assert not list((tmp_path / ".services").glob("*.json"))


def test_what_is_not_named_may_be_started_by_a_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], echo: Echo
) -> None:
    monkeypatch.setattr(cli, "SERVICES", {"echo": echo})
    show = [sys.executable, "-c", "import os; print(os.environ.get('TIDINGS_TEST_ECHO'), os.environ['TIDINGS_SERVICES_ON_DEMAND'])"]
    assert cli.main(["run", "--", *show], tmp_path) == 0
    assert capfd.readouterr().out.strip() == "None echo"


def test_a_failed_service_does_not_keep_the_others_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, echo: Echo) -> None:
    broken = Echo()
    broken.name, broken.variable, broken.source = "broken", "TIDINGS_TEST_BROKEN", "raise SystemExit(1)"
    monkeypatch.setattr(cli, "SERVICES", {"echo": echo, "broken": broken})
    monkeypatch.setenv("CI", "true")
    assert cli.main(["run", "all", "--", *PRINT], tmp_path) == 1
    assert processes.marked(str(tmp_path.resolve() / ".services" / "echo")) == []


class Elsewhere(Echo):
    """A service that no package of Debian brings."""

    def __init__(self) -> None:
        self.brought = False
        self.reason: str | None = None

    def find(self) -> Path | None:
        return Path(sys.executable) if self.brought else None

    def why_not(self) -> str | None:
        return self.reason

    def fetch(self) -> None:
        self.brought = True


def test_a_service_that_comes_from_elsewhere_is_fetched_once(control: Control) -> None:
    service = Elsewhere()
    control.start(service)
    assert service.brought
    control.stop(service)


def test_a_service_that_cannot_be_fetched_says_why(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Elsewhere()
    service.reason = "there is no Java"
    monkeypatch.setattr(containers, "why_not", lambda: "no Docker engine answers")
    with pytest.raises(UnavailableError, match="not installed, there is no Java, and no Docker engine answers"):
        control.start(service)


def test_every_service_has_a_container(request: pytest.FixtureRequest) -> None:
    without = {"pgbouncer"}  # a proxy for a server that a container could not reach
    assert [name for name in cli.SERVICES if not containers.defines(request.config.rootpath, name)] == sorted(without)


def test_free_ports_are_out_of_the_way_of_outgoing_connections_and_given_once() -> None:
    ports = [processes.free_port() for _ in range(20)]
    assert len(set(ports)) == len(ports)
    for port in ports:
        assert 20_000 <= port < 32_000
        with socket.socket() as server:
            server.bind((processes.LOOPBACK, port))


def test_a_port_that_is_taken_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind((processes.LOOPBACK, 0))
        taken = server.getsockname()[1]
        monkeypatch.setattr(processes, "_SERVED", [taken] * 100)
        assert processes.free_port() not in (0, taken)
