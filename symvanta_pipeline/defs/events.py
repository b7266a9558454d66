"""What Dagster is told of each customer: materializations with their figures.

Belongs here: one customer's result in Dagster's words, every event with the customer's partition. Does not belong
here: the checks (``checks``), any name or e-mail address, or deciding anything.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Set

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from symvanta_pipeline.accounts.mapping import PERMISSION_LEVEL_BY_TYPE
from symvanta_pipeline.accounts.proof import SEVERITIES, Proof
from symvanta_pipeline.accounts.state import COLUMNS
from symvanta_pipeline.accounts.summary import counts
from symvanta_pipeline.defs.checks import approval_metadata
from symvanta_pipeline.planning import COUNTED, Plan
from symvanta_pipeline.sync import ACCOUNTS, SENT, USERS, CustomerResult, Push

Metadata = Mapping[str, dg.MetadataValue]


def materializations_of(result: CustomerResult, selected: Set[dg.AssetKey]) -> Iterator[dg.AssetMaterialization]:
    """Yield the materializations that the customer got to, of those that were selected."""
    for asset, metadata in _metadata(result).items():
        key = dg.AssetKey(asset.split("/"))
        if key in selected:
            tags = {DATA_VERSION_TAG: sha256} if asset == SENT and (sha256 := _sha256(result)) else None
            yield dg.AssetMaterialization(key, partition=result.customer, metadata=metadata, tags=tags)


def _sha256(result: CustomerResult) -> str | None:
    """Return the hash of the body that Vanta holds: equal hashes are "same as last hour"."""
    if result.push:
        return result.push.body.sha256
    return result.already.body_sha256 if result.already else None


def _metadata(result: CustomerResult) -> dict[str, Metadata]:
    """Return the metadata of every asset that the customer got to, by asset."""
    if result.already:
        told = {
            "note": dg.MetadataValue.text("pushed since this run's hour began; not pushed again"),
            "pushed_by_run": dg.MetadataValue.dagster_run(result.already.run_id),
            "dagster/row_count": dg.MetadataValue.int(result.already.users),
        }
        return dict.fromkeys((USERS, ACCOUNTS, SENT), told)
    reached: dict[str, Metadata] = {}
    if result.users:
        reached[USERS] = _users_metadata(result)
    if result.accounts:
        reached[ACCOUNTS] = _accounts_metadata(result)
    if result.push:
        reached[SENT] = _sent_metadata(result.push, result)
    return reached


def _users_metadata(result: CustomerResult) -> Metadata:
    if result.users is None:
        return {}
    types = result.users.frame.drop_duplicates("user_id")["type"].value_counts()
    return {
        "dagster/row_count": dg.MetadataValue.int(result.users.users),
        # By the known types alone: what else may stand in that column is nobody's business here.
        **{f"type {name}": dg.MetadataValue.int(int(types.get(name, 0))) for name in PERMISSION_LEVEL_BY_TYPE},
        "read_at": dg.MetadataValue.timestamp(result.users.read_at),
        "read_seconds": dg.MetadataValue.float(round(result.seconds["read"], 3)),
        **_file(result, USERS),
    }


def _accounts_metadata(result: CustomerResult) -> Metadata:
    if result.accounts is None:
        return {}
    figures = {
        f"{column} {value}": dg.MetadataValue.int(n)
        for column, values in counts(result.accounts).items()
        for value, n in values.items()
    }
    return {
        "dagster/row_count": dg.MetadataValue.int(len(result.accounts.frame)),
        **figures,
        **_plan_metadata(result),
        "map_seconds": dg.MetadataValue.float(round(result.seconds["map"], 3)),
        **_file(result, ACCOUNTS),
    }


def _sent_metadata(push: Push, result: CustomerResult) -> Metadata:
    return {
        "dagster/row_count": dg.MetadataValue.int(push.body.count),
        "active": dg.MetadataValue.int(push.body.active),
        "deactivated": dg.MetadataValue.int(push.body.deactivated),
        "body_sha256": dg.MetadataValue.text(push.body.sha256),
        "body_bytes": dg.MetadataValue.int(len(push.body.payload)),
        "accepted_at": dg.MetadataValue.timestamp(push.recorded.accepted_at),
        "push_seconds": dg.MetadataValue.float(round(result.seconds["push"], 3)),
        "slot_wait_seconds": dg.MetadataValue.float(round(push.slot_wait, 3)),
        **(_changes(result.plan) if result.plan else {}),
        **approval_metadata(result.approval),
        **_proof_metadata(result.proof),
        **_file(result, SENT),
    }


def _plan_metadata(result: CustomerResult) -> Metadata:
    """Return what ``symvanta plan`` tells: what the next push changes, and what holds it."""
    plan = result.plan
    if plan is None:
        return {}
    told = dict(_changes(plan))
    if plan.warnings:
        told["warnings"] = dg.MetadataValue.text("; ".join(plan.warnings))
    if plan.change_hash:
        told["change_hash"] = dg.MetadataValue.text(plan.change_hash)
    if result.approval or not plan.holding:
        return told | {"held_by": dg.MetadataValue.text("nothing"), **approval_metadata(result.approval)}
    rules = ", ".join(brake.rule for brake in plan.holding)
    sentence = plan.held_sentence(result.customer)
    return told | {"held_by": dg.MetadataValue.text(rules), "what_to_do": dg.MetadataValue.text(sentence)}


def _changes(plan: Plan) -> Metadata:
    """Count the accounts by what happens to them, and the fields that change in those that were there and stay."""
    fields = Counter(change.field for change in plan.difference.changes if change.old and change.new)
    return {
        **{f"change {name}": dg.MetadataValue.int(len(getattr(plan.difference, name))) for name in COUNTED},
        **{f"change of {field}": dg.MetadataValue.int(fields[field]) for field in COLUMNS},
    }


def _proof_metadata(proof: Proof | None) -> Metadata:
    """Return what reading back showed: "accepted" says that there was none."""
    if proof is None:
        return {"proof": dg.MetadataValue.text("accepted")}
    found = {finding.name: finding.count for finding in proof.findings}
    return {
        "proof": dg.MetadataValue.text(proof.verdict),
        **{f"finding {name}": dg.MetadataValue.int(found.get(name, 0)) for name in SEVERITIES},
    }


def _file(result: CustomerResult, asset: str) -> Metadata:
    return {"file": dg.MetadataValue.path(result.files[asset])} if asset in result.files else {}
