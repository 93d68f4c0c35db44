"""The mail server: somebody else's, slow, and down at times. This one only remembers."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["MailServer", "Unreachable"]


class Unreachable(Exception):
    """The mail server does not answer."""


@dataclass
class MailServer:
    """Takes mails, unless it is down; does not know addresses at `nowhere.example`.

    Attributes:
        sent: recipients and subjects, in order.
    """

    down: bool = False
    sent: list[tuple[str, str]] = field(default_factory=list)

    async def send(self, email: str, subject: str) -> None:
        """Send a mail.

        Raises:
            Unreachable: the server is down.
            LookupError: there is no such address.
        """
        if self.down:
            raise Unreachable("the mail server is down")
        if email.endswith("@nowhere.example"):
            raise LookupError(f"there is no such address: {email}")
        self.sent.append((email, subject))
