"""The checks of the three assets: what each promises, and how a customer's result answers it.

Belongs here: a table of checks with their names and descriptions, and their evaluations, each with the customer's
partition and a severity. Does not belong here: deciding anything (``accounts.brakes``, ``accounts.proof``, ``sync``):
an evaluation tells of a decision and makes none, so that a check that is not executed takes no brake away.

Every check is evaluated for every customer: one that is planned and left out, Dagster shows as broken in a run that
fails for another customer. The promises of the brakes are of what is sent, so that they are kept where nothing is; any
other check that this run found no answer to warns that it was not judged, and why. Each evaluation names the
materialization that it is of, since Dagster takes one that names none for older than any.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from symvanta_pipeline.accounts.brakes import Brake
from symvanta_pipeline.defs.partitions import customers
from symvanta_pipeline.ledger.approvals import Approval
from symvanta_pipeline.rules import Violation
from symvanta_pipeline.sync import ACCOUNTS, SENT, USERS, CustomerResult, Reach

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN

Target = AssetCheckEvaluationTargetMaterializationData


@dataclass(frozen=True)
class Answer:
    """How a check ended for one customer.

    Attributes:
        passed: whether the promise held.
        severity: of its not passing.
        metadata: figures, rules and ids; no person.
    """

    passed: bool
    severity: dg.AssetCheckSeverity = ERROR
    metadata: Mapping[str, dg.MetadataValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what it promises.
        asset: of which asset.
        description: the same with its limits, for the UI.
        answer: tells how it ended; None where this run did not find out.
    """

    name: str
    asset: str
    description: str
    answer: Callable[[CustomerResult], Answer | None]

    @property
    def key(self) -> dg.AssetCheckKey:
        """Its key at Dagster."""
        return dg.AssetCheckKey(dg.AssetKey(self.asset.split("/")), self.name)

    def spec(self) -> dg.AssetCheckSpec:
        """Return it as Dagster wants it, with a result of its own for each customer."""
        with warnings.catch_warnings():
            # Partitioned checks are preview in Dagster 1.13, hence the tight bound on its version.
            warnings.simplefilter("ignore", dg.PreviewWarning)
            return dg.AssetCheckSpec(
                self.name, asset=self.key.asset_key, partitions_def=customers, description=self.description
            )


# The promise of each of `symvanta_pipeline.accounts.brakes.RULES`; "unseen" is what an approval ends.
PROMISES: Final[Mapping[str, tuple[str, str]]] = {
    "nobody": (
        "no_customer_is_sent_as_nobody",
        "There is somebody to send. An empty body would deactivate everybody; this cannot be approved.",
    ),
    "nobody_active": (
        "no_customer_is_left_without_active_users_unseen",
        "At least one user is active, unless somebody approved that nobody is.",
    ),
    "lost": (
        "no_customer_loses_more_than_a_fifth_of_its_active_users_unseen",
        "Not more than 20 % and at least 5 of those who were active at the last push are not any more (with under 25 "
        "active users: 50 % and at least 3), unless somebody approved exactly that.",
    ),
    "lost_in_a_day": (
        "no_customer_loses_more_than_a_fifth_of_its_active_users_over_a_day_unseen",
        "The same limits over 24 hours together, so that a slow leak does not pass hour by hour.",
    ),
    "lost_in_a_week": (
        "no_customer_loses_more_than_two_fifths_of_its_active_users_over_a_week_unseen",
        "Not more than 40 % and at least 5 over 7 days (with under 25 active users: 50 % and at least 3), unless "
        "somebody approved exactly that.",
    ),
    "vanished": (
        "no_more_than_a_twentieth_of_active_users_vanishes_unseen",
        "Not more than 5 % and at least 3 of those who were active, nor 10 or more, are gone without being "
        "deactivated, unless somebody approved exactly that. Who leaves is deactivated; people vanish in broken reads.",
    ),
    "admins": (
        "no_wave_of_new_admins_passes_unseen",
        "There are not at least 3 more admins and a share of them that rose by more than 10 points or doubled, unless "
        "somebody approved exactly that.",
    ),
    "without_mfa": (
        "mfa_going_off_for_many_is_seen",
        "The share of active users who are known to have no MFA did not rise by more than 20 points. This only warns: "
        "a true 'MFA off' must not be kept from the auditor.",
    ),
    "growth": (
        "no_tenfold_growth_passes_unseen",
        "There are not more than 10 times as many active users, unless somebody approved exactly that; more than 3 "
        "times as many and more than 50 only warn.",
    ),
    "first_push": (
        "no_first_push_removes_accounts_of_others_unseen",
        "Vanta lists nothing that a customer's first push would remove, unless somebody approved exactly that. Warns "
        "where Vanta was not asked, since nothing was to be sent.",
    ),
}


def checks_of(
    result: CustomerResult, selected: Set[dg.AssetCheckKey], targets: Mapping[dg.AssetKey, Target]
) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield an evaluation of each selected check.

    Args:
        result: what became of the customer.
        selected: which checks.
        targets: the customer's latest materialization of each asset that has one.
    """
    for check in CHECKS:
        if check.key in selected:
            answer = check.answer(result) or _unanswered(result)
            yield dg.AssetCheckEvaluation(
                asset_key=check.key.asset_key,
                check_name=check.name,
                passed=answer.passed,
                partition=result.customer,
                severity=answer.severity,
                metadata=answer.metadata,
                target_materialization_data=targets.get(check.key.asset_key),
            )


def targets_of(
    instance: dg.DagsterInstance, customer: str, selected: Set[dg.AssetCheckKey]
) -> dict[dg.AssetKey, Target]:
    """Look up the customer's latest materialization of each asset that a selected check is of."""
    found = {}
    for asset in {key.asset_key for key in selected}:
        latest = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[customer])
        for record in instance.fetch_materializations(latest, limit=1).records:
            found[asset] = Target(storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp)
    return found


def _unanswered(result: CustomerResult) -> Answer:
    """Answer a check for which this run had nothing to go by."""
    if result.already:
        # Vanta accepted it, which nothing reaches that breaks a promise unseen.
        return Answer(True, metadata={"judged_by_run": dg.MetadataValue.dagster_run(result.already.run_id)})
    return _not_judged(_why_not(result))


def _unsent(result: CustomerResult) -> dict[str, dg.MetadataValue]:
    return {"nothing_was_sent": dg.MetadataValue.text(_why_not(result))}


def _why_not(result: CustomerResult) -> str:
    return result.failure.sentence if result.failure else "this run did not get that far"


def _not_judged(why: str) -> Answer:
    return Answer(False, WARN, {"not_judged": dg.MetadataValue.text(why)})


def approval_metadata(approval: Approval | None) -> dict[str, dg.MetadataValue]:
    """Tell which approval let a push through. By whom and why stands in the ledger alone: both may name people."""
    if approval is None:
        return {}
    return {
        "approval": dg.MetadataValue.int(approval.id),
        "approved_at": dg.MetadataValue.timestamp(approval.at),
    }


def _source_is_whole_and_fresh(result: CustomerResult) -> Answer | None:
    if result.failure and result.failure.of_source:
        return Answer(False, metadata=_reason(result))
    return Answer(True) if result.users else None


def _rows_keep_the_contract(result: CustomerResult) -> Answer | None:
    if result.users is None:
        return None
    return Answer(not result.row_violations, metadata=_broken(result.row_violations) | _reason(result))


def _records_are_valid(result: CustomerResult) -> Answer | None:
    broken = (*result.row_violations, *result.record_violations)
    if result.accounts is None and not broken:
        return None
    return Answer(result.accounts is not None, metadata=_broken(broken) | _reason(result))


def _accepted_by_vanta(result: CustomerResult) -> Answer:
    broken = _broken((*result.row_violations, *result.record_violations))
    if result.reach is Reach.PUSH:
        return Answer(bool(result.push or result.already), metadata=broken | _reason(result))
    if result.before is None:
        return _not_judged("nothing was pushed yet")
    return Answer(result.before.outcome == "accepted", metadata=broken | _reason(result))


def _vanta_shows_what_was_sent(result: CustomerResult) -> Answer:
    """Tell what the read-back showed.

    Findings that contradict nothing do not pass either, but as a warning: they are accounts that no push can mend, so
    that only a person at Vanta can, and a check that passed is looked at by nobody.
    """
    if result.proof:
        findings = {finding.name: finding.count for finding in result.proof.findings}
        return _shown(result.proof.verdict, findings, {})
    if result.looked:
        read_back_at = {"read_back_at": dg.MetadataValue.timestamp(result.looked.at)}
        return _shown(result.looked.verdict, result.looked.findings, read_back_at)
    return _not_judged("Vanta's list was never read back")


def _shown(verdict: str, findings: Mapping[str, int], when: Mapping[str, dg.MetadataValue]) -> Answer:
    found = {f"finding {name}": dg.MetadataValue.int(count) for name, count in findings.items()}
    severity = ERROR if verdict == "contradicted" else WARN
    return Answer(not found, severity, {"proof": dg.MetadataValue.text(verdict), **found, **when})


def _brake(rule: str, result: CustomerResult) -> Answer | None:
    """Tell whether a brake holds, warns, was let through, or is not tripped."""
    if any(violation.rule == rule for violation in result.row_violations):
        # An empty read breaks the contract of its rows already, under the brake's own name, before there is a plan.
        return Answer(False)
    if result.plan is None:
        return None if result.already else Answer(True, metadata=_unsent(result))
    tripped = next((brake for brake in result.plan.brakes if brake.rule == rule), None)
    if tripped is None:
        return Answer(True)
    detail = {"detail": dg.MetadataValue.text(tripped.detail)}
    if not tripped.holds:
        return Answer(False, WARN, detail)
    held = {
        "accounts_held": dg.MetadataValue.int(_accounts(tripped)),
        "change_hash": dg.MetadataValue.text(result.plan.change_hash),
    }
    return Answer(result.approval is not None, ERROR, detail | held | approval_metadata(result.approval))


def _accounts(brake: Brake) -> int:
    """Count the accounts that a brake holds; none where it holds for a reason that no account in particular has."""
    return len({change.unique_id for change in brake.changes if change.unique_id})


def _broken(violations: Iterable[Violation]) -> dict[str, dg.MetadataValue]:
    return {f"rule {violation.rule}": dg.MetadataValue.int(violation.count) for violation in violations}


def _reason(result: CustomerResult) -> dict[str, dg.MetadataValue]:
    return {"reason": dg.MetadataValue.text(result.failure.sentence)} if result.failure else {}


CHECKS: Final = (
    Check(
        "source_is_whole_and_fresh",
        USERS,
        "Everybody was read, from the tables that are expected, of an organization that is there, and as of now: the "
        "read finished, and no replica lags. Nothing is sent otherwise, and no approval changes that.",
        _source_is_whole_and_fresh,
    ),
    Check(
        "rows_keep_the_contract",
        USERS,
        "Everyone read from Sym has a known type, known identities and an address.",
        _rows_keep_the_contract,
    ),
    Check(
        "records_are_valid",
        ACCOUNTS,
        "Vanta's schema holds for every record; one bad record would refuse the whole body.",
        _records_are_valid,
    ),
    *(Check(name, ACCOUNTS, promise, partial(_brake, rule)) for rule, (name, promise) in PROMISES.items()),
    Check(
        "accepted_by_vanta",
        SENT,
        "Vanta said that it accepted the latest push. Executing this check alone sends nothing.",
        _accepted_by_vanta,
    ),
    Check(
        "vanta_shows_what_was_sent",
        SENT,
        "What Vanta lists after the push is what it was sent: ids, statuses and levels. Warns where it lists more than "
        "that. Where the rate budget left nothing for reading back, the latest look counts, and says of when it is.",
        _vanta_shows_what_was_sent,
    ),
)
