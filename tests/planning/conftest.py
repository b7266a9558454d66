"""The real parts, for the tests of this folder."""

from tests.support.parts import dagster_url, databases, environment, parts, stand_in, sym_url, symvanta_url

__all__ = ["dagster_url", "databases", "environment", "parts", "stand_in", "sym_url", "symvanta_url"]
