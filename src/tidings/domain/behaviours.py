"""The steps that a command goes through before its handler. The list is the service's: `Service(behaviours=[...])`."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Any

from tidings.domain.commands import Behaviour, Call, Proceed
from tidings.domain.idempotency import Idempotency
from tidings.domain.results import Err
from tidings.domain.unit_of_work import current_work
from tidings.errors import ValidationFailed

__all__ = ["DEFAULT", "Logging", "Transactional", "Validation"]

logger = logging.getLogger("tidings.commands")


class Logging:
    """Logs each command with its outcome and duration, at INFO; an exception at ERROR, without its traceback, which is the caller's."""

    async def __call__(self, call: Call, proceed: Proceed) -> Any:
        started = perf_counter()
        try:
            result = await proceed()
        except ValidationFailed as error:
            self._log(logging.INFO, call, "rejected", started, str(error))
            raise
        except Exception as error:
            self._log(logging.ERROR, call, "failed", started, f"{type(error).__name__}: {error}")
            raise
        if isinstance(result, Err):
            self._log(logging.INFO, call, "rejected", started, repr(result.error))
        else:
            self._log(logging.INFO, call, "repeated" if call.repeated else "succeeded", started, "")
        return result

    def _log(self, level: int, call: Call, outcome: str, started: float, reason: str) -> None:
        seconds = perf_counter() - started
        logger.log(
            level, "command %s %s after %.1f ms%s", call.name, outcome, seconds * 1000, f": {reason:.500}" if reason else "",
            extra={"command": call.name, "handler": call.handler, "outcome": outcome, "seconds": seconds},
        )  # fmt: skip


class Transactional:
    """Runs what follows in a unit of work: a new one, or that of the command or block that this command is executed in.

    It commits when the handler returns, and rolls back when an exception comes, or an `Err` is returned.
    """

    async def __call__(self, call: Call, proceed: Proceed) -> Any:
        domain = call.commands.domain
        async with domain.unit_of_work(blocking=call.blocking) as unit:
            result = await proceed()
            if isinstance(result, Err) and not call.commits_on_err:
                unit.rollback()
            else:
                work = current_work(domain)
                assert work is not None
                for function in call.succeeding:
                    await function(work)
        return result


class Validation:
    """Calls the command's validators, all of them, and raises `ValidationFailed` with everything that they say.

    A validator that asks for a session gets that of the unit of work; before `Transactional()`, one of its own that is rolled back.
    """

    async def __call__(self, call: Call, proceed: Proceed) -> Any:
        errors = await call.validate()
        if errors:
            raise ValidationFailed(f"{call.name} is not valid", *errors)
        return await proceed()


#: What a service has that says nothing. A repeated command is found before it is validated: its first execution may be why it is not valid now.
DEFAULT: tuple[Behaviour, ...] = (Logging(), Transactional(), Idempotency(), Validation())
