"""State machines: random interleavings of everything that several workers do, against a model and against real statements."""
