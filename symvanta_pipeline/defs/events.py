"""What Dagster is told of each customer: materializations with their figures, and the checks.

Belongs here: one customer's result in Dagster's words, every event with the customer's partition. Does not belong
here: any name or e-mail address, or deciding anything.
"""

from collections.abc import Iterator, Mapping, Set

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from symvanta_pipeline.accounts.mapping import PERMISSION_LEVEL_BY_TYPE
from symvanta_pipeline.accounts.summary import counts
from symvanta_pipeline.sync import ACCOUNTS, SENT, USERS, CustomerResult, Push, Reach

Metadata = Mapping[str, dg.MetadataValue]


def materializations_of(result: CustomerResult, selected: Set[dg.AssetKey]) -> Iterator[dg.AssetMaterialization]:
    """Yield the materializations that the customer got to, of those that were selected."""
    for asset, metadata in _metadata(result).items():
        key = dg.AssetKey(asset.split("/"))
        if key in selected:
            tags = {DATA_VERSION_TAG: sha256} if asset == SENT and (sha256 := _sha256(result)) else None
            yield dg.AssetMaterialization(key, partition=result.customer, metadata=metadata, tags=tags)


def checks_of(result: CustomerResult, selected: Set[dg.AssetCheckKey]) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield an evaluation of each selected check that this result can answer."""
    for key in sorted(selected, key=str):
        verdict = _verdict(result, key.asset_key.to_user_string())
        if verdict is not None:
            yield dg.AssetCheckEvaluation(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=verdict,
                partition=result.customer,
                severity=dg.AssetCheckSeverity.ERROR,
                metadata=_check_metadata(result),
            )


def _verdict(result: CustomerResult, asset: str) -> bool | None:
    """Tell whether the asset's check passed; None where this run did not find out."""
    if asset == USERS:
        return None if result.users is None else not result.row_violations
    if asset == ACCOUNTS:
        tried = result.accounts is not None or result.row_violations or result.record_violations
        return result.accounts is not None if tried else None
    if result.reach is Reach.PUSH:
        return bool(result.push or result.already)
    return None if result.latest is None else result.latest == "accepted"


def _sha256(result: CustomerResult) -> str | None:
    """Return the hash of the body that Vanta holds: equal hashes are "same as last hour"."""
    if result.push:
        return result.push.body.sha256
    return result.already.body_sha256 if result.already else None


def _check_metadata(result: CustomerResult) -> Metadata:
    broken = {
        f"rule {v.rule}": dg.MetadataValue.int(v.count) for v in (*result.row_violations, *result.record_violations)
    }
    reason = {"reason": dg.MetadataValue.text(result.failure.sentence)} if result.failure else {}
    return broken | reason


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
        **_file(result, SENT),
    }


def _file(result: CustomerResult, asset: str) -> Metadata:
    return {"file": dg.MetadataValue.path(result.files[asset])} if asset in result.files else {}
