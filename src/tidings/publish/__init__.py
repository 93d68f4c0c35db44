"""Publishing: events are encoded at the call, buffered with the caller's transaction, and inserted by one statement just before it commits.

One small module per kind of connection; all of them run the same statements of the store. Sessions are in `session`, and `Publishing` is the
block for everything else; both are loaded when they are used.
"""

from tidings.publish.buffer import Cancellation
from tidings.publish.context import current_envelope
from tidings.publish.outgoing import Outgoing
from tidings.publish.publish import Publish
from tidings.publish.publisher import Publisher

__all__ = ["Cancellation", "Outgoing", "Publish", "Publisher", "current_envelope"]
