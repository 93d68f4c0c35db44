"""Redis Streams: sending, a transaction for each batch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from tidings.transports.base import CONFIRMED, Outcome, Outgoing, refused, sifted, size_of, unconfirmed
from tidings.transports.redis.client import close_client, load_redis, packer
from tidings.transports.redis.entries import fields_of

if TYPE_CHECKING:
    from redis.asyncio import Redis as Client

    from tidings.transports.redis.transport import Redis

__all__ = ["Publisher"]

_MULTI, _EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"


class Publisher:
    """One transaction after the other, on one connection; the next one is written while the server works on this one."""

    def __init__(self, transport: Redis, client: Client) -> None:
        self._transport = transport
        self._client = client
        self._connection: Any = None
        self._over: str | None = None
        self._broken = False
        self._turn = asyncio.Lock()
        self._pack = packer()

    async def start(self) -> None:
        pool: Any = self._client.connection_pool
        self._connection = await pool.get_connection()
        # A transaction has one bound of time, in place of a timer for each answer.
        self._connection.socket_timeout = None

    async def publish(self, batch: Sequence[Outgoing], /) -> list[Outcome]:
        packed: list[bytes] = []
        outcomes = sifted(batch, lambda outgoing: self._write(outgoing, packed))
        commands = dict(zip([number for number, outcome in enumerate(outcomes) if outcome is None], packed, strict=True))
        if commands:
            async with self._turn:
                await self._send(batch, outcomes, commands)
        return [outcome or unconfirmed(self._over or "the connection is lost", broken=self._broken) for outcome in outcomes]

    async def close(self) -> None:
        self._over = self._over or "the publisher is closed"
        await self._end()

    async def _end(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(5):
                    await self._connection.disconnect(nowait=True)
        await close_client(self._client)

    def _write(self, outgoing: Outgoing, packed: list[bytes]) -> str | None:
        """Add the command that adds the message, or return why it cannot be sent."""
        if (size := size_of(outgoing.message)) > self._transport.most:
            return f"the message has {size:,} bytes, more than {self._transport.most:,}"
        try:
            packed.append(self._command(outgoing))
        except ValueError as error:
            return f"it cannot be written: {error}"
        return None

    def _command(self, outgoing: Outgoing) -> bytes:
        limit = () if self._transport.retain is None else ("MAXLEN", "~", self._transport.retain)
        fields = chain.from_iterable(fields_of(outgoing.message, self._transport.wire).items())
        # A stream that nobody has provisioned has a name that somebody has mistyped.
        return self._pack(("XADD", outgoing.topic, "NOMKSTREAM", *limit, "*", *fields))

    async def _send(self, batch: Sequence[Outgoing], outcomes: list[Outcome | None], commands: dict[int, bytes]) -> None:
        """Send what has no outcome yet; what the server forbids is left out of the transaction and refused."""
        redis = load_redis()
        try:
            while commands and self._over is None:
                async with asyncio.timeout(self._transport.timeout):
                    rejected, results = await self._transact(list(commands.values()))
                numbers = list(commands)
                if results is not None:
                    for number, result in zip(numbers, results, strict=True):
                        outcomes[number] = self._outcome(batch[number], result)
                    return
                for place, error in rejected.items():
                    outcomes[numbers[place]] = self._outcome(batch[numbers[place]], error)
                    del commands[numbers[place]]
                if not rejected:
                    self._over = "the server has discarded a transaction without saying why"
        except (redis.exceptions.RedisError, OSError, RuntimeError, AttributeError, TimeoutError) as error:
            ended = isinstance(error, (redis.exceptions.ConnectionError, OSError)) and not isinstance(error, TimeoutError)
            self._broken = self._broken or (ended and self._over is None)
            self._over = self._over or f"{str(error) or type(error).__name__}"
        except BaseException:
            # The answers that nobody has read would be taken for those of the next transaction.
            self._over = self._over or "sending was interrupted"
            raise
        finally:
            if self._over is not None:
                await self._end()

    async def _transact(self, commands: Sequence[bytes]) -> tuple[dict[int, Exception], list[object] | None]:
        """Return what became of each command; or None, and the errors of those that the server has rejected before it began."""
        errors = load_redis().exceptions
        connection = self._connection
        await connection.send_packed_command([_MULTI, *commands, _EXEC], check_health=False)
        await connection.read_response()
        rejected: dict[int, Exception] = {}
        for number in range(len(commands)):
            try:
                await connection.read_response(disconnect_on_error=False)
            except errors.ResponseError as error:
                rejected[number] = error
        try:
            results: list[object] = await connection.read_response(disconnect_on_error=False)
        except errors.ExecAbortError:
            return rejected, None
        return rejected, results

    def _outcome(self, outgoing: Outgoing, result: object) -> Outcome:
        if result is None:
            return refused(f"there is no stream {outgoing.topic!r}")
        if not isinstance(result, Exception):
            return CONFIRMED
        # What is said of this stream, or of who may write to it; everything else, such as a lack of memory, is the server's state.
        if isinstance(result, load_redis().exceptions.NoPermissionError) or str(result).startswith(
            ("WRONGTYPE", "NOPERM", "Operation against")
        ):
            return refused(str(result))
        self._over = self._over or str(result)
        return unconfirmed(self._over)
