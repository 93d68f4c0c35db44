"""What is written down about a failed attempt: printable, bounded, and grouped by a fingerprint."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import re
import socket
import traceback
from datetime import UTC, datetime
from hashlib import blake2b

from tidings.stores.base import Failure

__all__ = ["HISTORY", "failure_of", "printable", "remember", "said", "this_process"]

#: How many attempts a delivery remembers.
HISTORY = 10

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
#: Where the frames lie that stand between the event loop and a handler; the demo's handlers are a user's.
_ON_THE_WAY = (_HERE, os.path.dirname(asyncio.__file__) + os.sep, os.path.dirname(concurrent.futures.__file__) + os.sep)
_DEMO = os.path.join(_HERE, "demo", "")

_VARIES = re.compile(r"0x[0-9a-fA-F]+|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|\d+|'[^']*'|\"[^\"]*\"")


def printable(text: str, limit: int) -> str:
    """Return text that every database and terminal can hold: no NUL, no lone surrogates, no control characters, at most `limit` long."""
    safe = "".join(
        c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" for c in text[:limit]
    )
    return safe if len(text) <= limit and len(safe) <= limit else safe[: limit - 1] + "…"


def failure_of(error: BaseException) -> Failure:
    """Describe an exception.

    The fingerprint is the same for failures of one kind: it is made of the type, the functions on the stack and the message without its
    numbers, ids and quoted values.
    """
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - the user's own __str__
        message = f"<its message raised {type(broken).__name__}>"
    frames = _users(traceback.extract_tb(error.__traceback__))
    calls = "|".join(f"{frame.filename.rpartition('/')[2]}:{frame.name}" for frame in frames)
    shape = f"{kind}\0{calls}\0{_VARIES.sub('?', message[:500])}"
    fingerprint = blake2b(shape.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    lines = "".join(traceback.format_list(frames[-20:])) if frames else ""
    return Failure(printable(kind, 200), printable(message, 2000), printable(lines, 8000), fingerprint)


def said(failure: Failure) -> str:
    """Return the error's type and the first line of its message."""
    return f"{failure.error_type}: {failure.error_message.partition(chr(10))[0][:300]}"


def _users(frames: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Leave out how we came to the handler: the first frame is the user's. An error of ours keeps all of its frames."""
    for index, frame in enumerate(frames):
        if not frame.filename.startswith(_ON_THE_WAY) or frame.filename.startswith(_DEMO):
            return frames[index:]
    return frames


def remember(history: str, attempt: int, failure: Failure) -> str:
    """Return the history with one more attempt, made in this process, the oldest forgotten."""
    try:
        past = json.loads(history)
    except ValueError:
        past = []
    past = past if isinstance(past, list) else []
    host, pid = this_process()
    past.append({
        "attempt": attempt, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), "error": f"{failure[0]}: {failure[1][:200]}",
        "worker": f"{host}:{pid}",
    })  # fmt: skip
    return json.dumps(past[-HISTORY:])


def this_process() -> tuple[str, int]:
    """Return host and process id, by which operators know a worker."""
    return printable(socket.gethostname(), 200), os.getpid()
