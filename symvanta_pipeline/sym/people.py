"""Finding a signed-in person in Sym's database.

Belongs here: whose login it is, in which organizations, and as what. Does not belong here: logging in, what a person is
shown or refused (`symvanta_pipeline.connect`).
"""

from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

from symvanta_pipeline.sym.database import SourceChanged, fetch, is_storable, where_to_look

ADMINS: Final = "admins.sql"
ADMINS_SQL: Final = files(__package__).joinpath(ADMINS).read_bytes()
USER_NAME: Final = "user_name.sql"
USER_NAME_SQL: Final = files(__package__).joinpath(USER_NAME).read_bytes()
# Name and PostgreSQL type of every column that admins.sql has to return.
RESULT_TYPES: Final = {
    "external_id": "text",
    "user_id": "text",
    "organization_id": "text",
    "slug": "text",
    "organization_name": "text",
    "type": "text",
    "is_deactivated": "bool",
    "organization_is_deleted": "bool",
}


@dataclass(frozen=True)
class Membership:
    """One user that a login belongs to, in one organization.

    Attributes:
        user_id: ``users.id``; what is written down about who did something.
        organization_id: ``organizations.id``.
        slug: the organization's today.
        organization_name: likewise.
        type: ``admin``, ``member`` or ``guest``.
        is_deactivated: whether ``deactivated_at`` is set, also in the future.
        organization_is_deleted: whether the organization is.
    """

    user_id: str
    organization_id: str
    slug: str
    organization_name: str = field(repr=False)
    type: str
    is_deactivated: bool
    organization_is_deleted: bool

    @property
    def may_connect(self) -> bool:
        """Whether this user may connect, reconnect and disconnect the organization."""
        return self.type == "admin" and not self.is_deactivated and not self.organization_is_deleted


def memberships(database_url: str, subject: str) -> list[Membership]:
    """Find every user that a login belongs to, over all organizations, by slug; empty for a stranger.

    Args:
        database_url: Sym's PostgreSQL, as a libpq URL.
        subject: OpenID Connect's ``sub``, which equals ``identities.external_id`` of the service ``auth0``, exactly.

    Raises:
        SourceUnavailable: no connection, or it was lost, or the statement took too long.
        SourceStale: a standby, and older than may be relied on.
        SourceChanged: a table, a column or a permission is missing, or ``admins.sql`` returns what it should not.
    """
    if not is_storable(subject) or not subject.strip():
        return []
    rows = fetch(database_url, ADMINS_SQL, {"subject": subject}, types=RESULT_TYPES, file=ADMINS)
    if any(row["external_id"] != subject for row in rows):
        raise SourceChanged(f"{ADMINS} returns users of another login: {where_to_look(ADMINS)}")
    return [Membership(**{name: row[name] for name in Membership.__dataclass_fields__}) for row in rows]


def user_name(database_url: str, organization_id: str, user_id: str) -> str | None:
    """Return what a user of an organization is called; None where it has no such user.

    Raises:
        SourceUnavailable: as in `memberships`.
        SourceChanged: likewise; the query is ``user_name.sql``.
    """
    parameters = {"organization_id": organization_id, "user_id": user_id}
    rows = fetch(database_url, USER_NAME_SQL, parameters, types={"name": "text"}, file=USER_NAME)
    return str(rows[0]["name"]) if rows else None
