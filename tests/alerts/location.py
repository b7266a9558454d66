"""A code location with the sensor alone, for a daemon of the test's own."""

import dagster as dg

from symvanta_pipeline.alerts import targets
from symvanta_pipeline.defs.alerts import customer_alerts
from symvanta_pipeline.defs.resources import Ledger

# A busy machine is no failure: a message that is held back on purpose must not time out before it is let go.
targets.TIMEOUT = (50.0, 50.0)

defs = dg.Definitions(sensors=[customer_alerts], resources={"ledger": Ledger()})
