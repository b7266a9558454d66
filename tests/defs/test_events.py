"""What a materialization tells, where a run of the real parts would not bring it about."""

from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

import dagster as dg
import pandas as pd
import pytest

from symvanta_pipeline.defs.assets import ACCOUNTS, SYNC, USERS
from symvanta_pipeline.defs.events import Links, departures, materializations_of
from symvanta_pipeline.ledger.snapshots import AcceptedSnapshot
from symvanta_pipeline.sym.contract import DTYPES
from symvanta_pipeline.sym.source import UsersSnapshot
from symvanta_pipeline.sync import CustomerResult, Reach

ID = UUID(int=1)
NOW = datetime(2026, 11, 24, tzinfo=UTC)
LINKS = Links("https://app.symops.com", "https://app.vanta.com")


def materialized(result: CustomerResult, key: dg.AssetKey) -> dict[str, object]:
    [materialization] = materializations_of(result, {key}, LINKS)
    return {name: value.value for name, value in materialization.metadata.items()}


def read(*rows: Mapping[str, object], slug: str = "acme") -> CustomerResult:
    frame = pd.DataFrame(rows).reindex(columns=list(DTYPES)).astype(DTYPES)
    snapshot = UsersSnapshot(str(ID), slug, NOW, frame, users=frame["user_id"].nunique())
    return CustomerResult("acme", Reach.READ, users=snapshot)


def test_no_word_that_stands_in_a_column_is_shown_unless_it_is_known() -> None:
    """Where the database is another one than described, even an id may be an address."""
    plain = {"user_id": str(UUID(int=2)), "type": "guest", "service": "slack", "deactivated_at": NOW}
    odd = {"user_id": "canary@acme.example", "type": "canary", "service": "canary", "slug": "canary"}
    told = materialized(read(plain, odd, odd | {"service": "auth0"}, {"user_id": str(UUID(int=3))}), USERS)
    lines = str(told["preview"]).splitlines()[2:]
    assert lines[0] == f"| {UUID(int=2)} | guest | DEACTIVATED | slack |"
    assert lines[1] == f"| {UUID(int=3)} | other | ACTIVE | other |"
    assert lines[2].startswith("| sha256:")
    assert lines[2].endswith("| other | ACTIVE | auth0, other |")
    assert "canary" not in str(told)
    assert (told["type guest"], told["type admin"], told["identity auth0"]) == (1, 0, 1)


def test_an_empty_read_is_told_of_like_any_other() -> None:
    told = materialized(read(), USERS)
    assert (told["dagster/row_count"], told["type admin"], told["status ACTIVE"]) == (0, 0, 0)
    assert len(str(told["preview"]).splitlines()) == 2


def test_a_link_is_one_whatever_the_slug() -> None:
    assert materialized(read(slug="a/b?c"), USERS)["sym"] == "https://app.symops.com/orgs/a%2Fb%3Fc"


@pytest.mark.parametrize("key", [USERS, ACCOUNTS, SYNC])
def test_what_an_older_version_did_not_record_is_left_out_rather_than_nought(key: dg.AssetKey) -> None:
    counts = {"status": {"ACTIVE": 2}, "level": {"BASE": 2}, "login": {"SSO": 2}, "mfa": {"sso": 2}}
    before = AcceptedSnapshot(ID, "run", NOW, "ab" * 32, 2, 2, 0, 1, NOW, 1, counts, None, "accepted", unchanged=False)
    told = materialized(CustomerResult("acme", Reach.PUSH, already=before), key)
    assert (told["dagster/row_count"], told["status ACTIVE"], told["status DEACTIVATED"]) == (2, 2, 0)
    assert (told["pushed_by_run"], told["vanta"], told["sym"]) == ("run", LINKS.vanta, LINKS.sym)
    assert not any(name.startswith(("change", "type", "identity", "body_bytes")) for name in told)
    assert ("level BASE" in told) == (key != USERS), "an asset tells of what it holds"


@pytest.mark.parametrize(
    ("seconds", "longest", "median"), [([], 0, 0), ([90], 1.5, 1.5), ([60, 120], 2, 1.5), ([0, 60, 7200], 120, 1)]
)
def test_departures(seconds: list[float], longest: float, median: float) -> None:
    told = {name: value.value for name, value in departures(seconds).items()}
    assert told == {
        "departures": len(seconds),
        "departure_minutes_longest": longest,
        "departure_minutes_median": median,
    }
