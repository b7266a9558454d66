"""What the pipeline's data comes from and where it ends up, which others keep (Dagster: external assets).

Belongs here: Sym's three tables, and the page at Vanta on which people see what was sent. Does not belong here:
anything that is materialized; how the tables are read (``sym/users.sql``).
"""

from typing import Final

import dagster as dg

from symvanta_pipeline.defs.code import code_references
from symvanta_pipeline.defs.columns import (
    ACCESS_PAGE,
    IDENTITIES_TABLE,
    ORGANIZATIONS_TABLE,
    PERSONAL,
    USERS_TABLE,
    asset_key,
    column_metadata,
)
from symvanta_pipeline.settings import link_to_vanta
from symvanta_pipeline.sync import SENT

OWNERS: Final = ["team:data-engineering"]
READ_ONLY: Final = (
    "Kept by Sym, in its production database; read here, in a session that can only read, and never written. Where "
    "your tables differ, `sym/users.sql` is the one file to adapt."
)


def _table(asset: str, description: str, *, is_personal: bool) -> dg.AssetSpec:
    return dg.AssetSpec(
        asset_key(asset),
        description=f"{description}\n\n{READ_ONLY}",
        group_name="sym",
        kinds={"postgres", "table"},
        owners=OWNERS,
        tags={"system": "sym", PERSONAL: "yes" if is_personal else "no"},
        metadata={
            "dagster/table_name": asset.rpartition("/")[2],
            "dagster/code_references": code_references(("sym/users.sql", "SELECT")),
            **column_metadata(asset),
        },
    )


EXTERNAL_ASSETS: Final = (
    _table(ORGANIZATIONS_TABLE, "Sym's customers, a row each.", is_personal=False),
    _table(
        USERS_TABLE,
        "Everyone who uses Sym, a row each, also those who left. Members and guests never log in to Sym: they type "
        "`/sym` in Slack, and have a row here all the same.",
        is_personal=True,
    ),
    _table(
        IDENTITIES_TABLE,
        "How each user is known to Auth0 or Slack, a row an identity. Only admins, present and past, have one at "
        "Auth0; it tells whether they log in with a password, and which MFA factors they enrolled.",
        is_personal=False,
    ),
    dg.AssetSpec(
        asset_key(ACCESS_PAGE),
        deps=[asset_key(SENT)],
        description=(
            "Where the customer and its auditor see the accounts: the Access page in Vanta. Kept by Vanta, which shows "
            "each customer its own; what was accepted there is read back after each push as far as the rate budget "
            "allows (check `vanta_shows_what_was_sent`)."
        ),
        group_name="vanta",
        kinds={"vanta"},
        owners=OWNERS,
        tags={"system": "vanta", PERSONAL: "yes"},
        metadata={
            "vanta": dg.MetadataValue.url(link_to_vanta()),
            "dagster/code_references": code_references(
                ("vanta/client.py", "def list_accounts"), ("accounts/proof.py", "def prove")
            ),
            **column_metadata(ACCESS_PAGE),
        },
    ),
)
