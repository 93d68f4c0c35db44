"""Tests, named by behaviour; `services` holds what gives them databases."""
