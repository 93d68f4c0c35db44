"""Consuming: receivers read a source, lanes keep keys in order, handlers run in transactions with their inbox rows, failures are parked.

The decisions (what runs next, when to try again, how far the checkpoint may go) are pure; the edges do the I/O.
"""
