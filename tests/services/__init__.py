"""What tests need from outside, one module per service, each handed out by a fixture in `tests/conftest.py`."""
