"""The client of NATS for those who have asked for TLS: it says nothing to a server that does not speak it."""

from __future__ import annotations

from nats.errors import Error

from tidings.transports.nats.sturdy import Sturdy

__all__ = ["Secure"]


class Secure(Sturdy):
    """A client that logs in over TLS or not at all: the client's own does what the server says, and anybody can say that there is no TLS."""

    def _connect_command(self) -> bytes:
        # The false server of the tests notices when the client calls it otherwise: it would hear the password.
        writer = getattr(self._transport, "_io_writer", None)
        if writer is None or writer.get_extra_info("ssl_object") is None:
            raise Error("the server does not offer TLS, which was asked for: nobody has logged in")
        return super()._connect_command()
