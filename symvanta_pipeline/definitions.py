"""The code location: what Dagster loads. Assembles ``defs``, nothing else; opens no connection, needs no secret."""

import dagster as dg

from symvanta_pipeline.defs.alerts import customer_alerts
from symvanta_pipeline.defs.assets import user_account_sync, user_account_sync_job
from symvanta_pipeline.defs.external import EXTERNAL_ASSETS
from symvanta_pipeline.defs.fleet import fleet_status, fleet_status_after_each_cycle, fleet_status_job
from symvanta_pipeline.defs.housekeeping import daily_housekeeping, housekeeping_job
from symvanta_pipeline.defs.resources import Ledger, SymDatabase, Vanta
from symvanta_pipeline.defs.schedule import hourly_user_account_sync
from symvanta_pipeline.defs.sensor import newly_connected_customers

defs = dg.Definitions(
    assets=[*EXTERNAL_ASSETS, user_account_sync, fleet_status],
    jobs=[user_account_sync_job, fleet_status_job, housekeeping_job],
    schedules=[hourly_user_account_sync, daily_housekeeping],
    sensors=[newly_connected_customers, customer_alerts, fleet_status_after_each_cycle],
    resources={"sym": SymDatabase(), "ledger": Ledger(), "vanta": Vanta()},
    # On the definitions, since a backfill from the UI runs a job of Dagster's own that a job's executor misses.
    executor=dg.in_process_executor,
)
