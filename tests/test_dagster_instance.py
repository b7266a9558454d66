"""Connections to Dagster's database: kept where a process asks for it, and replaced where the server lost them."""

import dagster as dg
import psycopg

from symvanta_pipeline.dagster_instance import keep_connections
from tests.support.runs import backend, instance

__all__ = ["instance"]


def test_a_connection_is_kept(instance: dg.DagsterInstance) -> None:
    assert backend(instance) != backend(instance)
    keep_connections(instance)
    kept = backend(instance)
    instance.add_dynamic_partitions("customers", ["acme"])
    assert {backend(instance) for _ in range(3)} == {kept}


def test_one_that_the_server_ended_is_replaced(instance: dg.DagsterInstance, dagster_url: str) -> None:
    keep_connections(instance)
    kept = backend(instance)
    with psycopg.connect(dagster_url.replace("+psycopg2", "")) as connection:
        assert connection.execute("SELECT pg_terminate_backend(%s, 10000)", [kept]).fetchone() == (True,)
    instance.add_dynamic_partitions("customers", ["acme"])
    assert instance.get_dynamic_partitions("customers") == ["acme"]
    assert backend(instance) != kept


def test_storages_without_connections_take_no_notice() -> None:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        keep_connections(ephemeral)
        ephemeral.add_dynamic_partitions("customers", ["acme"])
        assert ephemeral.get_dynamic_partitions("customers") == ["acme"]
