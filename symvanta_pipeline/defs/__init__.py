"""What Dagster shows: partitions, the assets with their checks, the schedule, the sensor, the resources.

Belongs here: everything that knows Dagster. Does not belong here: how a customer is synced (``sync``).
"""
