"""The columns of every asset: what each means, and which columns it comes from.

Belongs here: descriptions, types and sources as data, and their three forms in Dagster: column schema, column lineage,
and the same lineage as a markdown table, since open-source Dagster draws none. Does not belong here: what is done with
a column (``sym``, ``accounts``): the tests ask the query and the mapping whether the lineage is true.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import dagster as dg

from symvanta_pipeline.accounts import schema
from symvanta_pipeline.sym import contract
from symvanta_pipeline.sync import ACCOUNTS, SENT, USERS

ORGANIZATIONS_TABLE: Final = "sym_database/organizations"
USERS_TABLE: Final = "sym_database/users"
IDENTITIES_TABLE: Final = "sym_database/identities"
ACCESS_PAGE: Final = "vanta/access_page"
FLEET_STATUS: Final = "ops/fleet_status"

PERSONAL: Final = "contains-personal-data"


@dataclass(frozen=True)
class Source:
    """A column that another one comes from."""

    asset: str
    column: str


@dataclass(frozen=True)
class Column:
    """One column of an asset.

    Attributes:
        name: its name.
        type: PostgreSQL's, pandas' or JSON's, as the asset is kept.
        description: what it means, for somebody new.
        sources: the columns whose values decide about its values.
        nullable: whether a value may be missing.
        one_of: the values that there are, if they are few.
        is_personal: whether it tells who somebody is.
    """

    name: str
    type: str
    description: str
    sources: tuple[Source, ...] = ()
    nullable: bool = False
    one_of: tuple[str, ...] = ()
    is_personal: bool = False

    def shown(self) -> dg.TableColumn:
        """Return it as Dagster wants it."""
        return dg.TableColumn(
            self.name,
            self.type,
            description=self.description,
            constraints=dg.TableColumnConstraints(
                nullable=self.nullable, other=[f"one of {', '.join(self.one_of)}"] if self.one_of else None
            ),
            tags={PERSONAL: "yes"} if self.is_personal else {},
        )


def _from(asset: str, *columns: str) -> tuple[Source, ...]:
    return tuple(Source(asset, column) for column in columns)


def _table(name: str, type_: str, description: str, *, nullable: bool = False, is_personal: bool = False) -> Column:
    return Column(name, type_, description, nullable=nullable, is_personal=is_personal)


_ORGANIZATIONS = (
    _table("id", "uuid", "Which organization. Vanta knows the customer by it, as `source_id`."),
    _table("slug", "text", "Its name in URLs. May change; the partition keeps the slug of the first connection."),
    _table("name", "text", "What people call it. Not sent."),
    _table("created_at", "timestamptz", "Since when it exists. Not sent."),
    _table("deleted_at", "timestamptz", "Set: the organization is gone, and nothing is sent for it.", nullable=True),
)
_USERS = (
    _table("id", "uuid", "Who: never reused, never changed. The account's identity at Vanta."),
    _table("organization_id", "uuid", "The organization that the user belongs to."),
    _table("type", "text", "`admin`, `member` or `guest`. Only admins can change workflows and reporting."),
    _table("name", "text", "The person's name.", nullable=True, is_personal=True),
    _table(
        "email", "text", "The person's e-mail address; without one the push is held.", nullable=True, is_personal=True
    ),
    _table("created_at", "timestamptz", "Since when the user exists."),
    _table("updated_at", "timestamptz", "When the row last changed.", nullable=True),
    _table("deactivated_at", "timestamptz", "Set: the user has left, even where it lies in the future.", nullable=True),
    _table("last_active_at", "timestamptz", "Last use of Sym. Feeds nothing: it is no login.", nullable=True),
)
_IDENTITIES = (
    _table("id", "uuid", "Which identity; a user may have several."),
    _table("user_id", "uuid", "Whose identity."),
    _table("service", "text", "`auth0` or `slack`. Only admins, present and past, ever have one at Auth0."),
    _table("external_id", "text", "The identity's id there. Finds who signs in to the connect app; feeds no asset."),
    _table(
        "connection",
        "text",
        "Auth0's connection: `Username-Password-Authentication` is a password kept there, any other is federated.",
        nullable=True,
    ),
    _table("mfa_factors", "text[]", "Auth0's factors: empty is none enrolled, NULL is not known.", nullable=True),
    _table("last_login_at", "timestamptz", "Last login with this identity.", nullable=True),
    _table("last_password_reset_at", "timestamptz", "Last reset of its password.", nullable=True),
)

# Of each column of the raw frame: what it means, where it comes from, whether it may be missing.
_RAW: Final[Mapping[str, tuple[str, tuple[Source, ...], bool]]] = {
    "organization_id": (
        "The organization that was asked for, in every row.",
        (*_from(USERS_TABLE, "organization_id"), *_from(ORGANIZATIONS_TABLE, "id")),
        False,
    ),
    "slug": ("The organization's slug today, in every row.", _from(ORGANIZATIONS_TABLE, "slug"), False),
    "user_id": ("Who.", _from(USERS_TABLE, "id"), False),
    "type": ("`admin`, `member` or `guest`.", _from(USERS_TABLE, "type"), False),
    "name": ("The person's name.", _from(USERS_TABLE, "name"), True),
    "email": ("The person's e-mail address.", _from(USERS_TABLE, "email"), False),
    "created_at": ("Since when the user exists.", _from(USERS_TABLE, "created_at"), False),
    "updated_at": ("When the user's row last changed.", _from(USERS_TABLE, "updated_at"), True),
    "deactivated_at": ("Set: the user has left.", _from(USERS_TABLE, "deactivated_at"), True),
    "identity_id": (
        "Which of the user's identities this row is of; a user without any breaks a rule.",
        _from(IDENTITIES_TABLE, "id"),
        True,
    ),
    "service": ("What the identity is at: `auth0` or `slack`.", _from(IDENTITIES_TABLE, "service"), True),
    "connection": ("Of an identity at Auth0, its connection there.", _from(IDENTITIES_TABLE, "connection"), True),
    "mfa_factors": (
        "The MFA factors enrolled at Auth0: an empty list is none, a missing one is not known.",
        _from(IDENTITIES_TABLE, "mfa_factors"),
        True,
    ),
    "last_login_at": ("Last login with this identity.", _from(IDENTITIES_TABLE, "last_login_at"), True),
    "last_password_reset_at": (
        "Last reset of this identity's password.",
        _from(IDENTITIES_TABLE, "last_password_reset_at"),
        True,
    ),
}
_RAW_PERSONAL: Final = frozenset({"name", "email"})

# Of each field that is sent: what it means to an auditor, and the columns of the raw frame that it comes from.
_FIELDS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "uniqueId": ("The account's identity at Vanta.", ("user_id",)),
    "displayName": ("The name that Vanta shows; the e-mail address where there is none.", ("name", "email")),
    "fullName": ("The same as `displayName`.", ("name", "email")),
    "accountName": ("The account's name: the e-mail address, trimmed.", ("email",)),
    "email": ("The e-mail address, trimmed. Vanta finds the employee by it.", ("email",)),
    "externalUrl": ("The user's page in Sym; made of `SYM_APP_URL`, slug and id.", ("slug", "user_id")),
    "permissionLevel": ("How much the account may do: an admin is `ADMIN`, everybody else `BASE`.", ("type",)),
    "roleDescription": ("Sym's own user type, in words.", ("type",)),
    "status": ("`DEACTIVATED` once a deactivation is set, also one to come.", ("deactivated_at",)),
    "createdTimestamp": ("Since when the account exists.", ("created_at",)),
    "updatedTimestamp": ("When it last changed in Sym.", ("updated_at",)),
    "deactivatedTimestamp": ("When its owner left.", ("deactivated_at",)),
    "lastLoginTimestamp": ("The latest login with any identity of the user.", ("last_login_at",)),
    "lastPasswordResetTimestamp": (
        "The latest reset of a password; of password identities only.",
        ("service", "connection", "last_password_reset_at"),
    ),
    "authMethod": (
        "`PASSWORD` if any identity is a password kept by Auth0, else `SSO`: the strongest claim that is true.",
        ("service", "connection"),
    ),
    "mfaMethods": (
        "The kinds of MFA enrolled; `DISABLED` is none, an empty list is not known, or SSO, where Vanta ignores MFA.",
        ("service", "connection", "mfa_factors"),
    ),
    "mfaEnabled": ("Whether a real factor is enrolled.", ("service", "connection", "mfa_factors")),
}
_FIELDS_PERSONAL: Final = frozenset({"displayName", "fullName", "accountName", "email"})
_JSON_TYPES: Final = {
    **dict.fromkeys(schema.TIMESTAMPS, "string (RFC 3339, UTC, whole seconds)"),
    "mfaMethods": "array of strings",
    "mfaEnabled": "boolean",
}


def _raw(name: str, dtype: str) -> Column:
    description, sources, nullable = _RAW[name]
    return Column(name, dtype, description, sources, nullable=nullable, is_personal=name in _RAW_PERSONAL)


def _field(name: str, type_: str, sources: tuple[Source, ...]) -> Column:
    return Column(
        name,
        type_,
        _FIELDS[name][0],
        sources,
        nullable=name in schema.OPTIONAL,
        one_of=schema.MFA_METHODS if name == "mfaMethods" else schema.ENUMERATIONS.get(name, ()),
        is_personal=name in _FIELDS_PERSONAL,
    )


_FLEET = (
    Column("customer", "string", "The partition key."),
    Column(
        "state",
        "string",
        "How the customer stands, as `symvanta customers` says it.",
        one_of=("held", "parked", "failing", "late", "new", "healthy", "disconnected"),
    ),
    Column("since", "string", "Since when it stands so, in UTC.", nullable=True),
    Column("last_accepted", "string", "When Vanta last accepted a push, in UTC.", nullable=True),
    Column("next_step", "string", "What happened and what to do; blank where all is well.", nullable=True),
    Column("run_id", "string", "The run of the latest attempt.", nullable=True),
)

COLUMNS: Final[Mapping[str, tuple[Column, ...]]] = {
    ORGANIZATIONS_TABLE: _ORGANIZATIONS,
    USERS_TABLE: _USERS,
    IDENTITIES_TABLE: _IDENTITIES,
    USERS: tuple(_raw(name, dtype) for name, dtype in contract.DTYPES.items()),
    ACCOUNTS: tuple(_field(name, dtype, _from(USERS, *_FIELDS[name][1])) for name, dtype in schema.DTYPES.items()),
    # What was sent has the accounts' fields, as JSON.
    SENT: tuple(_field(name, _JSON_TYPES.get(name, "string"), _from(ACCOUNTS, name)) for name in schema.FIELDS),
    # And what Vanta holds has them as they were sent, with a mark of its own.
    ACCESS_PAGE: (
        *(_field(name, _JSON_TYPES.get(name, "string"), _from(SENT, name)) for name in schema.FIELDS),
        Column(
            "deletedAt",
            "string (RFC 3339)",
            "Set by Vanta: the account is in the customer's body no more. It stays listed, and is not shown.",
            _from(SENT, "uniqueId"),
            nullable=True,
        ),
    ),
    FLEET_STATUS: _FLEET,
}


def asset_key(asset: str) -> dg.AssetKey:
    """Return the key of an asset that is written as ``group/name``."""
    return dg.AssetKey(asset.split("/"))


def column_schema(asset: str) -> dg.TableSchema:
    """Return the columns of an asset in Dagster's words."""
    return dg.TableSchema([column.shown() for column in COLUMNS[asset]])


def column_metadata(asset: str) -> dict[str, dg.MetadataValue]:
    """Return what an asset's definition tells of its columns: schema and, where it has one, lineage in two forms."""
    told: dict[str, dg.MetadataValue] = {"dagster/column_schema": dg.MetadataValue.table_schema(column_schema(asset))}
    if any(column.sources for column in COLUMNS[asset]):
        told["dagster/column_lineage"] = dg.MetadataValue.column_lineage(_lineage(asset))
        told["lineage"] = dg.MetadataValue.md(_lineage_table(asset))
    return told


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table as GitHub's markdown has it, which Dagster's UI shows; a bar or a line's end breaks nothing."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(_in_cell(cell) for cell in line)} |" for line in lines)


def _in_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _lineage(asset: str) -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {
            column.name: [dg.TableColumnDep(asset_key(source.asset), source.column) for source in column.sources]
            for column in COLUMNS[asset]
        }
    )


def _lineage_table(asset: str) -> str:
    """Write down, for each column of an asset, the columns that it comes from, asset by asset back to Sym's tables."""
    chains = {column.name: _ancestry(column.sources) for column in COLUMNS[asset]}
    steps = max(map(len, chains.values()))
    rows = [[f"`{name}`", *(_named(step) for step in chain)] for name, chain in chains.items()]
    return markdown_table(["column", *["comes from"] * steps], [row + [""] * (steps + 1 - len(row)) for row in rows])


def _ancestry(sources: Sequence[Source]) -> list[tuple[Source, ...]]:
    """Return a column's sources, then theirs, until there are none."""
    steps: list[tuple[Source, ...]] = []
    while sources:
        steps.append(tuple(sources))
        parents = [parent for source in sources for parent in _column(source).sources]
        sources = tuple(dict.fromkeys(parents))
    return steps


def _column(source: Source) -> Column:
    return next(column for column in COLUMNS[source.asset] if column.name == source.column)


def _named(sources: Sequence[Source]) -> str:
    return ", ".join(f"`{source.asset}.{source.column}`" for source in sources)
