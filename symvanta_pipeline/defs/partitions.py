"""The partitions: one per customer that was ever connected to Vanta, never removed (Dagster: dynamic partitions)."""

import dagster as dg

CUSTOMERS = "customers"

customers = dg.DynamicPartitionsDefinition(name=CUSTOMERS)
