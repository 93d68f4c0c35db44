"""Servers of our own for tests and benchmarks, one per checkout, on loopback, thrown away when stopped.

`base` is the port that each service fills with one small module; `control` starts, finds and stops any of them, as a process of ours or,
where there is no program to run, in a container. Only the standard library is used: this runs before anything is installed.
"""
