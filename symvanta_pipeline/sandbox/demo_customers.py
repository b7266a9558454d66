"""The demo customers: Sym's schema, and twelve made-up organizations that between them show every kind of user.

Belongs here: who they are, and how they get into a database. Does not belong here: what the pipeline makes of them,
and how they are connected to Vanta.

Everything follows from slugs and numbers, so that every load, on every machine, gives the same rows. Logins and
departures go round in a fixed order, so that each kind is met often; names and times come from seeded randomness.
"""

import random
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from itertools import cycle, repeat
from typing import Literal

import psycopg
from psycopg import sql

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "demo.symvanta.example")
FIRST_DAY = datetime(2026, 1, 5, tzinfo=UTC)  # the first organization signs up
LAST_DAY = datetime(2026, 10, 30, tzinfo=UTC)  # nothing has happened after it
LAST_HIRE = datetime(2026, 9, 15, tzinfo=UTC)
LEAVES_LATER = datetime(2027, 12, 31, 17, tzinfo=UTC)  # a leave that is set and still to come
KIND_SHARES = {"admin": 0.06, "demoted": 0.02, "member": 0.80, "guest": 0.12}  # demoted: was an admin once
DEPARTED_SHARE, LATER_SHARE = 0.15, 0.1  # of all; of those who depart
NAME_SHARES = {"given": 0.97, "missing": 0.02, "blank": 0.01}

PASSWORD = "Username-Password-Authentication"  # noqa: S105 - Auth0's name of a connection, not a password
NOT_KNOWN = None

# Auth0's connection (None: a Slack identity) and MFA factors.
Login = tuple[str | None, list[str] | None]

SLACK: Login = (None, NOT_KNOWN)
GOOGLE: Login = ("google-oauth2", NOT_KNOWN)
OKTA: Login = ("okta-workforce", NOT_KNOWN)
ENTRA: Login = ("entra-id", NOT_KNOWN)
MFA_STATES: tuple[list[str] | None, ...] = (
    ["otp"],
    ["sms"],
    ["email"],
    ["push-notification"],
    ["webauthn-roaming"],
    ["webauthn-platform"],
    ["recovery-code"],  # alone, it counts for nothing
    ["otp", "recovery-code"],
    ["otp", "sms", "webauthn-roaming"],
    [],  # none enrolled
    NOT_KNOWN,
)
ADMIN_LOGINS: tuple[tuple[Login, ...], ...] = (
    *(((PASSWORD, factors),) for factors in MFA_STATES),
    (GOOGLE,),
    (OKTA,),
    (ENTRA, SLACK),
    ((PASSWORD, ["otp"]), SLACK),
    ((PASSWORD, ["push-notification"]), SLACK, OKTA),
    ((PASSWORD, []), GOOGLE),
    (SLACK,),  # has been made an admin, has not logged in yet
)
DEMOTED_LOGINS: tuple[tuple[Login, ...], ...] = (((PASSWORD, ["sms"]), SLACK), (GOOGLE, SLACK), (OKTA,))

# Given and family names, each as written and as in an e-mail address.
NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "latin": (
        ("Ada", "Bruno", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ines", "Jonas", "Karen", "Liam"),
        ("Archer", "Bell", "Carter", "Duarte", "Ellis", "Fischer", "Grant", "Hansen", "Irving", "Jansen"),
    ),
    "diacritics": (
        ("Zoë|zoe", "Łukasz|lukasz", "Søren|soren", "José|jose", "Şebnem|sebnem", "Điệp|diep", "Anaïs|anais"),
        ("Muñoz|munoz", "Žižić|zizic", "Åström|astrom", "Nguyễn|nguyen", "Ōno-Brün|ono-brun", "Çelik|celik"),
    ),
    "greek": (("Ελένη|eleni", "Νίκος|nikos", "Σοφία|sofia"), ("Παππάς|pappas", "Γεωργίου|georgiou")),
    "cyrillic": (("Олена|olena", "Иван|ivan", "Милица|milica"), ("Шевченко|shevchenko", "Петров|petrov")),
    "arabic": (("ليلى|layla", "عمر|omar", "نور|noor"), ("حداد|haddad", "منصور|mansour")),
    "hebrew": (("נועה|noa", "דוד|david", "תמר|tamar"), ("לוי|levi", "כהן|cohen")),
    "devanagari": (("अनिल|anil", "प्रिया|priya", "श्रुति|shruti"), ("शर्मा|sharma", "द्विवेदी|dwivedi")),
    "chinese": (("伟|wei", "秀英|xiuying", "子涵|zihan"), ("王|wang", "陈|chen")),
    "japanese": (("美咲|misaki", "さくら|sakura", "ケンジ|kenji"), ("佐藤|sato", "髙橋|takahashi")),
    "korean": (("서연|seoyeon", "민준|minjun", "하은|haeun"), ("김|kim", "박|park")),
    "emoji": (("Robin 🐦|robin", "Max 👩🏽‍💻|max"), ("River 🌊|river", "Star ⭐|star")),
}
FAMILY_FIRST = {"chinese", "japanese", "korean"}
SCRIPT_SHARES = dict.fromkeys(NAMES, 1.0) | {"latin": 20.0, "diacritics": 5.0}

ORGANIZATION_COLUMNS = ("id", "slug", "name", "created_at", "deleted_at")
USER_COLUMNS = (
    *("id", "organization_id", "type", "name", "email"),
    *("created_at", "updated_at", "deactivated_at", "last_active_at"),
)
IDENTITY_COLUMNS = (
    *("id", "user_id", "service", "external_id", "connection"),
    *("mfa_factors", "last_login_at", "last_password_reset_at"),
)

Expectation = Literal["accepted", "held", "not connected"]
Row = tuple[object, ...]


@dataclass(frozen=True)
class DemoCustomer:
    """One demo organization.

    Attributes:
        slug: the organization's slug, and with it the partition key once it is connected.
        name: what people call it.
        size: how many users it has, departed ones included.
        expectation: how a cycle of the demo is to end for it.
        shows: what to look at, in a few words.
    """

    slug: str
    name: str
    size: int
    expectation: Expectation
    shows: str

    @property
    def id(self) -> uuid.UUID:
        """The organization's id."""
        return uuid.uuid5(NAMESPACE, self.slug)


DEMO_CUSTOMERS: tuple[DemoCustomer, ...] = (
    DemoCustomer("solo-studio", "Solo Studio", 1, "accepted", "one person, who is the admin"),
    DemoCustomer("paper-crane", "Paper Crane", 3, "accepted", "a handful of people"),
    DemoCustomer("lumen-labs", "Lumen Labs", 8, "accepted", "two people with one shared mailbox: a warning"),
    DemoCustomer("oakridge-dental", "Oakridge Dental", 15, "accepted", "a small office"),
    DemoCustomer("harborline", "Harborline", 25, "accepted", "a guest who is also in Tessera"),
    DemoCustomer("brightpath", "Brightpath", 60, "held", "a user without an e-mail address holds the push"),
    DemoCustomer("tessera", "Tessera", 120, "accepted", "a guest who is also in Harborline"),
    DemoCustomer("northfreight", "North Freight", 250, "accepted", "a company of middle size"),
    DemoCustomer("quarry-bank", "Quarry Bank", 400, "not connected", "has not given its consent in Vanta"),
    DemoCustomer("meridian-care", "Meridian Care", 800, "accepted", "a large company"),
    DemoCustomer("vela-robotics", "Vela Robotics", 1300, "accepted", "a larger company"),
    DemoCustomer("atlas-parcel", "Atlas Parcel", 2500, "accepted", "the largest body sent in one request"),
)

# (slug, number) of users -> columns that tell a story instead of what would be made up. Number 0 is the first admin.
TOLD: dict[tuple[str, int], dict[str, object]] = {
    ("lumen-labs", 1): {"type": "member", "name": "Front desk", "email": "desk@lumen-labs.example"},
    ("lumen-labs", 2): {"type": "member", "name": "Front desk, evenings", "email": "desk@lumen-labs.example"},
    ("harborline", 3): {"type": "guest", "name": "نور حداد", "email": "noor.haddad@freelance.example"},
    ("tessera", 7): {"type": "guest", "name": "نور حداد", "email": "noor.haddad@freelance.example"},
    ("brightpath", 11): {"type": "member", "name": "Integration Robot", "email": None},
    ("oakridge-dental", 2): {"email": "  front.office@oakridge-dental.example "},
}


def create_schema(url: str) -> None:
    """Make Sym's three tables where they are missing."""
    schema = resources.files(__package__).joinpath("sym_schema.sql").read_bytes()
    with psycopg.connect(url) as connection:
        connection.execute(schema)


def load(url: str) -> None:
    """Put the demo customers into Sym's tables, in one transaction.

    Their earlier rows, and whatever somebody has changed in them, are replaced; other organizations stay.
    """
    organizations = [(c.id, c.slug, c.name, FIRST_DAY, None) for c in DEMO_CUSTOMERS]
    people = [person for customer in DEMO_CUSTOMERS for person in _people(customer)]
    ours = [[customer.id for customer in DEMO_CUSTOMERS]]
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM identities USING users WHERE user_id = users.id AND organization_id = ANY(%s)", ours
        )
        cursor.execute("DELETE FROM users WHERE organization_id = ANY(%s)", ours)
        cursor.execute("DELETE FROM organizations WHERE id = ANY(%s)", ours)
        _copy(cursor, "organizations", ORGANIZATION_COLUMNS, organizations)
        _copy(cursor, "users", USER_COLUMNS, (user for user, _ in people))
        _copy(cursor, "identities", IDENTITY_COLUMNS, (row for _, identities in people for row in identities))


def _copy(cursor: psycopg.Cursor, table: str, columns: tuple[str, ...], rows: Iterable[Row]) -> None:
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)) as copy:
        for row in rows:
            copy.write_row(row)


def _people(customer: DemoCustomer) -> Iterator[tuple[Row, list[Row]]]:
    """Yield each user's row with the rows of the user's identities. Number 0 is an admin who never leaves."""
    logins = {
        "admin": cycle(ADMIN_LOGINS),
        "demoted": cycle(DEMOTED_LOGINS),
        "member": repeat((SLACK,)),
        "guest": repeat((SLACK,)),
    }
    for number in range(customer.size):
        dice = random.Random(f"{customer.slug}:{number}")  # noqa: S311 - made-up people are no secret
        told = TOLD.get((customer.slug, number), {}).get("type")
        kind = "admin" if number == 0 else str(told or _one_of(dice, KIND_SHARES))
        yield _person(customer, number, kind, next(logins[kind]), dice)


def _person(
    customer: DemoCustomer,
    number: int,
    kind: str,
    logins: tuple[Login, ...],
    dice: random.Random,
) -> tuple[Row, list[Row]]:
    told = TOLD.get((customer.slug, number), {})
    user_id = uuid.uuid5(customer.id, f"user {number}")
    name, address = _name(dice)
    created = _moment(dice, FIRST_DAY, LAST_HIRE)
    departs = number > 0 and not told and dice.random() < DEPARTED_SHARE
    later = departs and dice.random() < LATER_SHARE
    end = _moment(dice, created, LAST_DAY) if departs and not later else LAST_DAY
    user = {
        "id": user_id,
        "organization_id": customer.id,
        "type": "member" if kind == "demoted" else kind,
        "name": {"given": name, "missing": None, "blank": "  "}[_one_of(dice, NAME_SHARES)],
        "email": f"{address}.{number}@{customer.slug}{'-partner' if kind == 'guest' else ''}.example",
        "created_at": created,
        "updated_at": _perhaps(dice, 0.7, created, end),
        "deactivated_at": LEAVES_LATER if later else end if departs else None,
        "last_active_at": _perhaps(dice, 0.8, created, end),
    } | told
    identities = [_identity(user_id, login, dice, created, end) for login in logins]
    return tuple(user[column] for column in USER_COLUMNS), identities


def _identity(user: uuid.UUID, login: Login, dice: random.Random, start: datetime, end: datetime) -> Row:
    connection, factors = login
    unique = uuid.uuid5(user, connection or "slack")
    prefix = "auth0" if connection == PASSWORD else connection
    return (
        unique,
        user,
        "auth0" if connection else "slack",
        f"{prefix}|{unique.hex[:24]}" if connection else f"U{unique.hex[:10].upper()}",
        connection,
        factors,
        _perhaps(dice, 0.9 if connection else 0.4, start, end),
        _perhaps(dice, 0.5, start, end) if connection == PASSWORD else None,
    )


def _name(dice: random.Random) -> tuple[str, str]:
    """Return a person's name, as people write it, and the part of an e-mail address made of it."""
    script = _one_of(dice, SCRIPT_SHARES)
    parts = [dice.choice(names).partition("|") for names in NAMES[script]]
    written = [part[0] for part in parts]
    address = ".".join(part[2] or part[0].lower() for part in parts)
    return " ".join(reversed(written) if script in FAMILY_FIRST else written), address


def _one_of(dice: random.Random, shares: dict[str, float]) -> str:
    return dice.choices(list(shares), list(shares.values()))[0]


def _moment(dice: random.Random, start: datetime, end: datetime) -> datetime:
    """Return a moment between the two, to the microsecond."""
    return start + (end - start) * dice.random()


def _perhaps(dice: random.Random, share: float, start: datetime, end: datetime) -> datetime | None:
    return _moment(dice, start, end) if dice.random() < share else None
