"""The process that workers are forked from: everything is imported, and nothing is connected, no thread and no loop exists."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from tests.workers import program


def serve() -> None:
    # Workers that ended must not stay behind as zombies.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        assert threading.active_count() == 1
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # The nursery's pipes are not the worker's: an input that ends, or that somebody else reads, must not matter.
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(2, 1)
            os._exit(program.main(json.loads(line)))
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
