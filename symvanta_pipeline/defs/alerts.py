"""The sensor that tells people of customers that need one (Dagster: a sensor without a job).

Belongs here: putting a look together from settings, and telling in Dagster what it did. Does not belong here: what
is worth a message and how it gets there (``alerts``).
"""

import logging

import dagster as dg

from symvanta_pipeline.alerts.delivery import Report, look
from symvanta_pipeline.alerts.messages import Links
from symvanta_pipeline.alerts.targets import targets_of
from symvanta_pipeline.defs.resources import Ledger
from symvanta_pipeline.settings import AlertSettings, load

RUNBOOK = "docs/runbook.md"


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Tells Slack, a webhook and the log, as far as they are switched on, of every customer that is held, parked, "
        "failing or late, once, and of its recovery. Each tick says what it did; it never asks for a run."
    ),
)
def customer_alerts(context: dg.SensorEvaluationContext, ledger: Ledger) -> dg.SkipReason:
    """Look once; a target that is down shows here and in the log, and what is for it waits."""
    settings = load(AlertSettings)
    links = Links(settings.symvanta_dagster_url, settings.symvanta_runbook_url or RUNBOOK)
    with ledger.open() as live:
        report = look(live, targets_of(settings, context.log.log), links)
    _tell_of_failures(report, context.log)
    return dg.SkipReason(report.sentence())


def _tell_of_failures(report: Report, log: logging.Logger) -> None:
    """Warn of each failed attempt; attempts get rarer, and so do these."""
    for target, reason in report.failed.items():
        log.warning("alerts cannot be sent to %s: %s", target, reason)
    if report.failed:
        for sentence in report.long_waiting():
            log.error("alerts are not getting through: %s", sentence)
