"""Programs that measure Tidings, each beside the raw reference in the same run: `python -m benchmarks --help`."""
