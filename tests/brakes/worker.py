"""A process that pushes the customers named on its command line.

Belongs here: what a run does, without Dagster, in a process that can be killed. Does not belong here: any expectation.
"""

import signal
import sys

from symvanta_pipeline.defs.resources import Ledger, SymDatabase, Vanta, customer_sync
from symvanta_pipeline.sync import Reach

LONGEST_LIFE = 100  # seconds; whom nobody kills, because its test was killed, ends by itself


def main() -> None:
    """Push them."""
    signal.alarm(LONGEST_LIFE)
    with customer_sync(
        SymDatabase(), Ledger(), Vanta(), reach=Reach.PUSH, run_id="another process", tick=None
    ) as built:
        for _ in built.results(sys.argv[1:]):
            pass


if __name__ == "__main__":
    main()
