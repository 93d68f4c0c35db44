"""The client of NATS, without the one thing that a hostile message can do to it: headers that it cannot read end its reading for ever."""

from __future__ import annotations

from nats.aio.client import Client

from tidings.transports.nats.pull import UNREADABLE

__all__ = ["Sturdy"]


class Sturdy(Client):
    """A client that hands on what it cannot read."""

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        # Hostile messages of the conformance tests notice when the client calls it otherwise.
        try:
            return await super()._process_headers(headers)
        except Exception:  # noqa: BLE001 - whatever it is: the message is not ours to choose
            return {UNREADABLE: headers.decode("utf-8", "backslashreplace")}
