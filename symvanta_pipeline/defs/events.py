"""What Dagster is told of each customer: materializations with their figures, links and a preview that names nobody.

Belongs here: one customer's result in Dagster's words, every event with the customer's partition. Does not belong
here: the checks (``checks``), any name or e-mail address, or deciding anything.

Every figure is a number under the same key in each materialization of an asset, nought included, so that Dagster plots
it over time without holes: also where a push stood already and was not repeated, which took no time and read nothing
back. Only what an older version did not record of such a push is left out, rather than told as nought.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from statistics import median
from typing import Final
from urllib.parse import quote

import dagster as dg
import pandas as pd
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from symvanta_pipeline.accounts.mapping import PERMISSION_LEVEL_BY_TYPE
from symvanta_pipeline.accounts.proof import SEVERITIES, Proof
from symvanta_pipeline.accounts.schema import Accounts
from symvanta_pipeline.accounts.state import COLUMNS, states_of
from symvanta_pipeline.accounts.summary import COUNTED as COUNTED_VALUES
from symvanta_pipeline.accounts.summary import SERVICES, counts, identities
from symvanta_pipeline.defs.checks import approval_metadata
from symvanta_pipeline.defs.code import code_version
from symvanta_pipeline.defs.columns import markdown_table
from symvanta_pipeline.ledger.snapshots import AcceptedSnapshot
from symvanta_pipeline.planning import COUNTED
from symvanta_pipeline.rules import shown_id
from symvanta_pipeline.settings import SyncSettings, link_to_vanta, load
from symvanta_pipeline.sync import ACCOUNTS, SENT, USERS, CustomerResult, Push

Metadata = Mapping[str, dg.MetadataValue]

PREVIEWED: Final = 10  # accounts; so few that the UI shows them without a click
STEPS: Final[Mapping[str, tuple[str, ...]]] = {
    USERS: ("read", "write"),
    ACCOUNTS: ("read", "map", "compare", "write"),
    SENT: ("lock", "read", "map", "compare", "record", "push", "read_back", "write", "slot_wait"),
}
_OF_ACCOUNTS: Final = {**COUNTED_VALUES, "change": COUNTED, "change of": COLUMNS}
# What is counted for each asset: the names and their values.
FIGURES: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    USERS: {"type": COUNTED_VALUES["type"], "status": COUNTED_VALUES["status"], "identity": SERVICES},
    ACCOUNTS: _OF_ACCOUNTS,
    SENT: _OF_ACCOUNTS,
}


@dataclass(frozen=True)
class Links:
    """Where a person sees a customer outside Dagster.

    Attributes:
        sym: Sym's admin app, such as ``https://app.symops.com``.
        vanta: Vanta's app, which shows each customer its own.
    """

    sym: str
    vanta: str

    @classmethod
    def from_settings(cls) -> "Links":
        """Take them from the environment.

        Raises:
            SettingsError: Sym's is malformed, of which every account's ``externalUrl`` is made, too.
        """
        return cls(load(SyncSettings).sym_app_url, link_to_vanta())

    def of(self, slug: str | None) -> Metadata:
        """Return the links of one organization, by its slug today; only a read tells that."""
        app = self.sym.rstrip("/")
        return {
            "sym": dg.MetadataValue.url(f"{app}/orgs/{quote(slug, safe='')}" if slug else app),
            "vanta": dg.MetadataValue.url(self.vanta),
        }


def materializations_of(
    result: CustomerResult, selected: Set[dg.AssetKey], links: Links
) -> Iterator[dg.AssetMaterialization]:
    """Yield the materializations that the customer got to, of those that were selected."""
    for asset, metadata in _metadata(result, links).items():
        key = dg.AssetKey(asset.split("/"))
        if key in selected:
            tags = {DATA_VERSION_TAG: sha256} if asset == SENT and (sha256 := _sha256(result)) else None
            yield dg.AssetMaterialization(key, partition=result.customer, metadata=metadata, tags=tags)


def _sha256(result: CustomerResult) -> str | None:
    """Return the hash of the body that Vanta holds: equal hashes are "same as last hour"."""
    if result.push:
        return result.push.body.sha256
    return result.already.body_sha256 if result.already else None


def _metadata(result: CustomerResult, links: Links) -> dict[str, Metadata]:
    """Return the metadata of every asset that the customer got to, by asset."""
    reached: dict[str, Metadata] = {}
    if result.already:
        reached = {asset: _already_metadata(asset, result.already) for asset in FIGURES}
    if result.users:
        reached[USERS] = _users_metadata(result)
    if result.accounts:
        shown = _shown(result.accounts)
        reached[ACCOUNTS] = {**shown, **_plan_metadata(result)}
        if result.push:
            reached[SENT] = {**shown, **_sent_metadata(result.push, result)}
    outside = links.of(result.users.slug if result.users else None)
    return {
        asset: {
            **told,
            **_seconds(result, asset),
            **outside,
            **({"run_before": dg.MetadataValue.dagster_run(result.before.run_id)} if result.before else {}),
            "code_version": dg.MetadataValue.text(code_version(asset)),
            **_file(result, asset),
        }
        for asset, told in reached.items()
    }


def _already_metadata(asset: str, accepted: AcceptedSnapshot) -> Metadata:
    """Tell of a customer that was left alone: what was sent before stands."""
    sent = accepted.counts or {}
    known = {name: values for name, values in FIGURES[asset].items() if name in sent}
    return {
        "note": dg.MetadataValue.text("pushed since this run's hour began; not pushed again"),
        "pushed_by_run": dg.MetadataValue.dagster_run(accepted.run_id),
        "dagster/row_count": dg.MetadataValue.int(accepted.users),
        **_figures({name: {value: sent[name].get(value, 0) for value in values} for name, values in known.items()}),
        **({**_accepted_metadata(accepted, sent), **_proof_metadata(None)} if asset == SENT else {}),
    }


def _accepted_metadata(accepted: AcceptedSnapshot, sent: Mapping[str, Mapping[str, int]]) -> Metadata:
    """Tell of a push what the ledger knows of it."""
    return {
        **departures(accepted.departure_seconds or []),
        "body_sha256": dg.MetadataValue.text(accepted.body_sha256),
        **({"body_bytes": dg.MetadataValue.int(sent["body"]["bytes"])} if "body" in sent else {}),
        "accepted_at": dg.MetadataValue.timestamp(accepted.accepted_at),
        "data_age_seconds": _rounded((accepted.accepted_at - accepted.read_at).total_seconds()),
    }


def _users_metadata(result: CustomerResult) -> Metadata:
    if result.users is None:
        return {}
    frame = result.users.frame
    people = frame.drop_duplicates("user_id").sort_values("user_id")
    types = people["type"].value_counts()
    left = int(people["deactivated_at"].notna().sum())
    # By the known words alone: what else may stand in a column is nobody's business here.
    figures = {
        "type": {name: int(types.get(name, 0)) for name in PERMISSION_LEVEL_BY_TYPE},
        "status": {"ACTIVE": len(people) - left, "DEACTIVATED": left},
        **identities(frame),
    }
    return {
        "dagster/row_count": dg.MetadataValue.int(result.users.users),
        **_figures(figures),
        "read_at": dg.MetadataValue.timestamp(result.users.read_at),
        "preview": _users_preview(people, frame),
    }


def _users_preview(people: pd.DataFrame, frame: pd.DataFrame) -> dg.MetadataValue:
    """Show the first users by id, with nothing that tells who they are."""
    first = people.head(PREVIEWED)
    rows = [
        [shown_id(str(user)), _known(type_, PERMISSION_LEVEL_BY_TYPE), "DEACTIVATED" if left else "ACTIVE"]
        for user, type_, left in zip(first["user_id"], first["type"], first["deactivated_at"].notna(), strict=True)
    ]
    services = {
        user: ", ".join(sorted({_known(service, SERVICES) for service in of}))
        for user, of in frame.loc[frame["user_id"].isin(first["user_id"])].groupby("user_id")["service"]
    }
    return _preview(
        ["user id", "type", "status", "identities at"],
        [[*row, services.get(user, "")] for row, user in zip(rows, first["user_id"], strict=True)],
    )


def _known(word: object, words: Sequence[str] | Mapping[str, object]) -> str:
    return str(word) if word in words else "other"


def _shown(accounts: Accounts) -> Metadata:
    """Return what both assets of accounts tell of them: figures, and the first by unique id as the ledger has them."""
    states = states_of(accounts).head(PREVIEWED)
    rows = [[shown_id(str(unique_id)), *map(str, values)] for unique_id, *values in states.itertuples()]
    return {
        "dagster/row_count": dg.MetadataValue.int(len(accounts.frame)),
        **_figures(counts(accounts)),
        "preview": _preview(["unique id", *COLUMNS], rows),
    }


def _sent_metadata(push: Push, result: CustomerResult) -> Metadata:
    return {
        **(_figures(result.plan.counts()) if result.plan else {}),
        **_accepted_metadata(push.recorded, push.recorded.counts or {}),
        **approval_metadata(result.approval),
        **_proof_metadata(result.proof),
    }


def departures(seconds: Sequence[float]) -> Metadata:
    """Tell how many left, and the minutes from their deactivation in Sym to Vanta; 0 where nobody did."""
    return {
        "departures": dg.MetadataValue.int(len(seconds)),
        "departure_minutes_longest": _rounded(max(seconds, default=0) / 60),
        "departure_minutes_median": _rounded(median(seconds) / 60 if seconds else 0),
    }


def _figures(figures: Mapping[str, Mapping[str, int]]) -> Metadata:
    return {
        f"{name} {value}": dg.MetadataValue.int(count)
        for name, by_value in figures.items()
        for value, count in by_value.items()
    }


def _seconds(result: CustomerResult, asset: str) -> Metadata:
    return {f"{step}_seconds": _rounded(result.seconds.get(step, 0)) for step in STEPS[asset]}


def _rounded(number: float) -> dg.MetadataValue:
    return dg.MetadataValue.float(round(float(number), 3))


def _preview(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> dg.MetadataValue:
    return dg.MetadataValue.md(markdown_table(headings, rows))


def _plan_metadata(result: CustomerResult) -> Metadata:
    """Return what ``symvanta plan`` tells: what the next push changes, and what holds it."""
    plan = result.plan
    if plan is None:
        return {}
    told = dict(_figures(plan.counts()))
    if plan.warnings:
        told["warnings"] = dg.MetadataValue.text("; ".join(plan.warnings))
    if plan.change_hash:
        told["change_hash"] = dg.MetadataValue.text(plan.change_hash)
    if result.approval or not plan.holding:
        return told | {"held_by": dg.MetadataValue.text("nothing"), **approval_metadata(result.approval)}
    rules = ", ".join(brake.rule for brake in plan.holding)
    sentence = plan.held_sentence(result.customer)
    return told | {"held_by": dg.MetadataValue.text(rules), "what_to_do": dg.MetadataValue.text(sentence)}


def _proof_metadata(proof: Proof | None) -> Metadata:
    """Return what reading back showed; where nothing was, "accepted" and a nought under `read_back` say so."""
    found = {finding.name: finding.count for finding in proof.findings} if proof else {}
    return {
        "proof": dg.MetadataValue.text(proof.verdict if proof else "accepted"),
        "read_back": dg.MetadataValue.int(int(proof is not None)),
        **{f"finding {name}": dg.MetadataValue.int(found.get(name, 0)) for name in SEVERITIES},
    }


def _file(result: CustomerResult, asset: str) -> Metadata:
    return {"file": dg.MetadataValue.path(result.files[asset])} if asset in result.files else {}
