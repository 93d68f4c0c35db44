"""The relay: moves a service's own part of the log to a broker, and its checkpoint only over what the broker has confirmed.

`Routing` says what goes where, `Flight` what may be under way at a time, `Relay` does it.
"""

from tidings.relay.relay import Relay
from tidings.relay.routing import Routing, relay_name

__all__ = ["Relay", "Routing", "relay_name"]
