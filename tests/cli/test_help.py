from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from tests.cli.conftest import CommandLine
from tidings.cli.command import Command
from tidings.cli.root import tidings


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


EVERY = list(commands(tidings))


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[" ".join(path) for path, _ in EVERY])
def test_every_command_teaches_by_example(cli: CommandLine, path: tuple[str, ...], command: click.Command) -> None:
    assert isinstance(command, Command)
    ended = cli(*path, "--help")
    assert ended.exit_code == 0
    assert "Examples:" in ended.out
    for example, meaning in command.examples:
        assert f"$ {example}\n" in ended.out
        assert meaning in ended.out
        assert f"tidings {' '.join(path)}" in example


def test_the_help_names_every_command_and_every_exit_code(cli: CommandLine) -> None:
    ended = cli("--help")
    assert ended.exit_code == 0
    for word in ("demo", "run", "db", "status", "tail", "dead", "subscriptions", "groups", "Exit codes", "TIDINGS_STORE"):
        assert word in ended.out


def test_the_version_is_that_of_the_package(cli: CommandLine) -> None:
    from tidings import __version__

    assert cli("--version").out == f"tidings {__version__}\n"


def test_the_help_loads_no_sqlalchemy() -> None:
    program = """
import sys
from tidings.cli.root import tidings
for words in (["--help"], ["status", "--help"], ["dead", "list", "--help"], ["demo", "--help"], ["run", "--help"]):
    try:
        tidings(words)
    except SystemExit as ended:
        assert not ended.code
print(*[name for name in ("sqlalchemy", "rich", "asyncpg") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []


def test_without_click_a_sentence_says_what_to_install() -> None:
    program = "import sys; sys.modules['click'] = None; from tidings.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "tidings: the command line needs two more packages: pip install 'tidings[cli]'\n"


def test_python_m_tidings_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-m", "tidings", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tidings ")
