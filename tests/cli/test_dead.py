from __future__ import annotations

import re

import pytest

from tests.cli.conftest import CommandLine
from tests.cli.till import HOSTILE
from tests.services.databases import Database
from tidings.cli.text import pretty

# What a terminal would obey: control characters but for the line end, and characters that turn the direction of text round.
OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# What rich itself prints on a terminal: colours and styles.
STYLE = re.compile(r"\x1b\[[0-9;]*m")


def test_the_list_says_what_is_dead_why_and_what_waits_behind_it(cli: CommandLine, filled: Database) -> None:
    ended = cli("dead", "list", store=filled)
    assert ended.exit_code == 0
    head, row = ended.out.splitlines()
    assert head.split() == ["id", "subscription", "service", "event", "key", "attempts", "waiting", "failed", "at", "error"]
    assert row.split()[1:8] == ["till/book", "till", "sale.made", "v2", "bad", "1", "2"]
    assert "Refused:" in row


def test_the_list_as_json_is_an_array_of_objects(cli: CommandLine, filled: Database) -> None:
    ended = cli("dead", "list", "--json", store=filled)
    (item,) = ended.json
    assert ended.exit_code == 0
    assert (item["state"], item["key"], item["waiting_behind"], item["attempts"]) == ("dead", "bad", 2, 1)
    assert item["error_type"] == "tests.cli.till.Refused"
    assert item["failed_at"].endswith("+00:00")


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (("--subscription", "book"), 1),
        (("--subscription", "till/book"), 1),
        (("--subscription", "watch"), 0),
        (("--event", "sale.made"), 1),
        (("--event", "drawer.opened"), 0),
        (("--key", "bad"), 1),
        (("--key", "a-1"), 0),
        (("--key", "bad", "--event", "sale.made", "--subscription", "till/book", "--limit", "1"), 1),
    ],
)
def test_filters_narrow_the_list(cli: CommandLine, filled: Database, filters: tuple[str, ...], count: int) -> None:
    assert len(cli("dead", "list", "--json", *filters, store=filled).json) == count


def test_an_empty_list_is_no_failure(cli: CommandLine, filled: Database) -> None:
    ended = cli("dead", "list", "--key", "nobody", store=filled)
    assert (ended.exit_code, ended.out) == (0, "no dead events\n")


def test_one_is_shown_in_full_by_its_id_and_by_its_events_id(cli: CommandLine, filled: Database) -> None:
    (item,) = cli("dead", "list", "--json", store=filled).json
    by_number = cli("dead", "show", str(item["number"]), store=filled)
    by_event = cli("dead", "show", item["event_id"].upper(), store=filled)
    assert by_number.exit_code == by_event.exit_code == 0
    assert by_number.out == by_event.out
    for part in (
        "dead, 2 waiting behind it",
        "till/book of service till",
        "sale.made v2",
        '"receipt": "bad"',
        "till.py",
        "Refused",
        "history",
    ):
        assert part in by_number.out
    (full,) = cli("dead", "show", str(item["number"]), "--json", store=filled).json
    assert full["data"] == {"receipt": "bad", "text": HOSTILE}
    assert "raise Refused" in full["traceback"]
    assert [attempt["attempt"] for attempt in full["history"]] == [1]


def test_what_waits_behind_a_dead_one_can_be_shown_too(cli: CommandLine, filled: Database) -> None:
    (item,) = cli("dead", "list", "--json", store=filled).json
    behind = cli("dead", "show", str(item["number"] + 1), store=filled)
    assert behind.exit_code == 0
    assert f"waiting behind {item['number']}" in behind.out


@pytest.mark.parametrize("id_", ["99999", "01a1fdd5-3c23-733d-8027-1459f0e17dcd", "nonsense", "1" * 40, "-", "½"])
def test_what_is_not_there_exits_with_one(cli: CommandLine, filled: Database, id_: str) -> None:
    ended = cli("dead", "show", "--", id_, store=None, TIDINGS_STORE=filled.url)
    assert ended.exit_code == 1
    assert "no parked event has the id" in ended.err


@pytest.mark.parametrize("command", [("dead", "list"), ("dead", "show", "1"), ("tail",), ("status",)], ids=" ".join)
@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_a_hostile_payload_cannot_reach_the_terminal(cli: CommandLine, filled: Database, command: tuple[str, ...], terminal: bool) -> None:
    environment = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "200"} if terminal else {}
    ended = cli(*command, store=filled, **environment)
    assert ended.exit_code in (0, 1)
    assert not OBEYED.search(STYLE.sub("", ended.out)), repr(ended.out)
    if command[0] == "dead":
        assert "\\x1b[2J" in ended.out.replace("\n", ""), "what was there is shown, escaped"
        assert "[bold red]" in ended.out, "markup is text"


def test_json_is_pure_ascii(cli: CommandLine, filled: Database) -> None:
    for command in (("dead", "list"), ("dead", "show", "1"), ("tail",)):
        out = cli(*command, "--json", store=filled).out
        assert out.isascii()
        assert not OBEYED.search(out)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00raw", b"{", b'"\\ud800"', b"[" * 100_000, b"\x1b[2J", b""])
def test_bytes_that_are_no_json_are_shown_escaped(data: bytes) -> None:
    assert not OBEYED.search(pretty(data))
    pretty(data).encode()


@pytest.mark.parametrize(
    "words",
    [
        ("dead", "list"),
        ("keys", "blocked"),
        ("dead", "redrive", "--yes"),
        ("dead", "discard", "--reason", "a test", "--yes"),
        ("keys", "try-now", "--yes"),
    ],
)
def test_a_misspelt_subscription_is_no_all_clear(cli: CommandLine, filled: Database, words: tuple[str, ...]) -> None:
    ended = cli(*words, "--subscription", "till/boook", store=filled)
    assert (ended.exit_code, ended.out) == (1, "")
    assert "there is no subscription 'till/boook'; there are: security/watch, till/book" in ended.err


def test_blocked_keys_and_dead_events_agree_on_what_waits(cli: CommandLine, filled: Database) -> None:
    head, row = cli("keys", "blocked", "--key", "bad", store=filled).out.splitlines()
    assert dict(zip(head.split(), row.split(), strict=False))["waiting"] == "2"
    assert cli("keys", "blocked", "--key", "a-1", store=filled).out == "no blocked keys\n"
