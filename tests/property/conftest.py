"""Hypothesis for these tests: the same examples in every run, no deadline because a timing is not a verdict."""

from hypothesis import settings

settings.register_profile("centipede", derandomize=True, database=None, deadline=None, max_examples=300)
settings.load_profile("centipede")
