"""A process that looks once, as a tick does, so that it can be killed.

Takes the ledger's URL and the receiver's; writes what the log is sent to standard output, and then what it did.
"""

import sys
from collections.abc import Callable

from pydantic import SecretStr

from symvanta_pipeline.alerts import delivery, rendering
from symvanta_pipeline.alerts.targets import LogTarget, Target, WebTarget
from symvanta_pipeline.ledger.live_connection import LiveConnection
from tests.alerts.world import LINKS


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def targets_of(receiver_url: str, log: Callable[[str], object]) -> list[Target]:
    """Return all targets there are."""
    return [
        LogTarget(lambda _, line: log(line)),
        WebTarget("slack", SecretStr(f"{receiver_url}/slack"), rendering.slack),
        WebTarget("webhook", SecretStr(f"{receiver_url}/webhook"), rendering.webhook),
    ]


def main(ledger_url: str, receiver_url: str) -> None:
    with LiveConnection(ledger_url) as live:
        say(delivery.look(live, targets_of(receiver_url, say), LINKS).sentence())


if __name__ == "__main__":
    main(*sys.argv[1:])
