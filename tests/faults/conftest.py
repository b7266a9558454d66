"""The real parts and an instance of Dagster's, for the tests of this folder."""

from tests.support.parts import dagster_url, databases, environment, parts, stand_in, sym_url, symvanta_url
from tests.support.runs import instance

__all__ = ["dagster_url", "databases", "environment", "instance", "parts", "stand_in", "sym_url", "symvanta_url"]
