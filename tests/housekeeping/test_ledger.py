"""Pruning the pipeline's own tables: what is over and old goes, what is still true or was never settled stays."""

import uuid
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql

from symvanta_pipeline.ledger import audit, consent_requests, database, history, retention, snapshots, web_sessions
from symvanta_pipeline.ledger.connections import connect_customer
from symvanta_pipeline.ledger.vault import KeyRing, Token
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from tests.ledger.conftest import NOON, announce, backdate, push
from tests.support.parts import KEYS, meanwhile

YEAR, MONTH = timedelta(days=400), timedelta(days=30)
ANN = ["ann", "ACTIVE", "ADMIN", "PASSWORD", "on"]
BOB = ["bob", "ACTIVE", "BASE", "SSO", "sso"]
PASSWORD = "throw-away"
NOTHING = dict.fromkeys(
    ["accepted_snapshots", "audit_events", "intents", "consent_requests", "web_sessions", "alerts"], 0
)


@pytest.fixture
def ledger(symvanta_url: str) -> Iterator[psycopg.Connection]:
    with database.connect(symvanta_url) as connection:
        yield connection


def connected(ledger: psycopg.Connection, slug: str) -> uuid.UUID:
    organization = uuid.uuid4()
    connect_customer(ledger, KeyRing(KEYS), organization, slug, Token("vat", "vrt", NOON, "read write"))
    return organization


def pruned(ledger: psycopg.Connection) -> dict[str, int]:
    """Prune and tell what went, without what did not."""
    went = retention.prune(ledger, keep_ledger=YEAR, keep_runs=MONTH)
    assert went.keys() == NOTHING.keys()
    return {table: rows for table, rows in went.items() if rows}


def age(ledger: psycopg.Connection, table: str, days: int, *columns: str) -> None:
    """Move all rows into the past, whatever protects them."""
    moved = ", ".join(f"{column} = {column} - make_interval(days => {days})" for column in columns)
    with ledger.transaction():
        ledger.execute("SET LOCAL session_replication_role = replica")
        ledger.execute(f"UPDATE {table} SET {moved}".encode())


def count(ledger: psycopg.Connection, table: str) -> int:
    [(rows,)] = ledger.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()
    return int(rows)


def test_nothing_of_today_goes(ledger: psycopg.Connection) -> None:
    acme = connected(ledger, "acme")
    push(ledger, acme, [ANN])
    push(ledger, acme, [ANN])
    audit.record(ledger, "connected", organization_id=acme)
    assert pruned(ledger) == {}
    assert (count(ledger, "accepted_snapshots"), count(ledger, "intents"), count(ledger, "audit_events")) == (2, 2, 1)


def test_the_ledger_goes_when_an_audit_does_not_ask_for_it_any_more(ledger: psycopg.Connection) -> None:
    acme, dormant = connected(ledger, "acme"), connected(ledger, "dormant")
    for organization in (acme, dormant):
        push(ledger, organization, [ANN])
        last = push(ledger, organization, [ANN])
        history.record_proof(ledger, last.id, "proved", [])
    audit.record(ledger, "connected", organization_id=acme)
    backdate(ledger, days=399)
    age(ledger, "audit_events", 399, "at")
    assert pruned(ledger) == {}
    backdate(ledger, days=2)
    age(ledger, "audit_events", 2, "at")
    now = push(ledger, acme, [ANN])
    audit.record(ledger, "signed_in")
    states = history.states(ledger, dormant)
    assert pruned(ledger) == {"accepted_snapshots": 3, "audit_events": 1}
    assert [p.snapshot_id for p in history.pushes(ledger, acme)] == [now.id]
    assert [(p.snapshot_id, p.proof) for p in history.pushes(ledger, dormant)] == [(last.id, "proved")]
    assert history.states(ledger, dormant) == states
    assert [event for (event,) in ledger.execute("SELECT event FROM audit_events")] == ["signed_in"]


def test_what_a_held_customers_brakes_compare_with_stays_until_it_gets_through(ledger: psycopg.Connection) -> None:
    acme = connected(ledger, "acme")
    push(ledger, acme, [ANN, BOB])
    backdate(ledger, days=20)
    lost = push(ledger, acme, [ANN])
    backdate(ledger, days=2)
    push(ledger, acme, [ANN])
    [(last_week,)] = ledger.execute("SELECT now() - interval '7 days'").fetchall()
    assert history.active_since(ledger, acme, last_week)[0] == {"ann", "bob"}
    snapshots.record_outcome(ledger, acme, "held", run_id="run", kind="lost_in_a_week", change_hash="ab" * 32)
    backdate(ledger, days=500)
    age(ledger, "outcomes", 500, "at", "since", "held_since")
    assert pruned(ledger) == {"accepted_snapshots": 1}  # of 20 days before
    assert history.pushes(ledger, acme)[0].snapshot_id == lost.id
    assert history.active_since(ledger, acme, last_week - timedelta(days=500))[0] == {"ann", "bob"}
    push(ledger, acme, [ANN])
    snapshots.record_outcome(ledger, acme, "accepted", run_id="run")
    assert pruned(ledger) == {"accepted_snapshots": 2}


def test_an_intent_goes_with_the_runs_but_for_one_that_was_possibly_applied(ledger: psycopg.Connection) -> None:
    acme = connected(ledger, "acme")
    push(ledger, acme, [ANN])
    snapshots.resolve_intent(ledger, announce(ledger, acme, [ANN]), "refused")
    possibly = announce(ledger, acme, [ANN])
    age(ledger, "intents", 31, "created_at", "resolved_at")
    assert pruned(ledger) == {"intents": 2}
    [left] = snapshots.unresolved_intents(ledger, acme)
    assert left.id == possibly
    assert len(history.possible(ledger, acme)) == 1
    # A later push still finds it.
    push(ledger, acme, [ANN])
    assert [outcome for (outcome,) in ledger.execute("SELECT outcome FROM intents ORDER BY id")] == [
        "superseded",
        "accepted",
    ]


def test_a_message_goes_once_it_is_sent(ledger: psycopg.Connection) -> None:
    for sent in ("now()", "NULL"):
        ledger.execute(
            "INSERT INTO alerts (message_id, target, message, sent_at)"
            f" VALUES (gen_random_uuid(), 'log', '{{}}', {sent})".encode()
        )
    age(ledger, "alerts", 31, "created_at", "sent_at")
    assert pruned(ledger) == {"alerts": 1}
    assert ledger.execute("SELECT sent_at FROM alerts").fetchall() == [(None,)]


def test_sessions_and_consents_go_when_they_are_over(ledger: psycopg.Connection) -> None:
    keyring, hour, week = KeyRing(KEYS), timedelta(hours=1), timedelta(days=7)
    web_sessions.begin(ledger, keyring, "auth0|1", lifetime=hour)
    live = web_sessions.begin(ledger, keyring, "auth0|2", lifetime=week)
    consent_requests.remember(ledger, live, "never answered", uuid.uuid4(), lifetime=hour)
    consent_requests.remember(ledger, live, "on its way", uuid.uuid4(), lifetime=week)
    for table in ("web_sessions", "consent_requests"):
        age(ledger, table, 1, "created_at", "expires_at")
    assert pruned(ledger) == {"consent_requests": 1, "web_sessions": 1}
    assert web_sessions.find(ledger, keyring, live.id)
    assert consent_requests.use(ledger, live, "on its way")


def test_it_goes_on_batch_by_batch_until_nothing_old_is_left(
    ledger: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    for _ in range(5):
        audit.record(ledger, "signed_in")
    age(ledger, "audit_events", 401, "at")
    acme = connected(ledger, "acme")
    for _ in range(4):
        push(ledger, acme, [ANN])
    age(ledger, "intents", 31, "created_at", "resolved_at")
    assert pruned(ledger) == {"audit_events": 5, "intents": 4}
    assert pruned(ledger) == {}


def test_two_at_once_while_pushes_are_recorded(
    ledger: psycopg.Connection, symvanta_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 1)
    acme = connected(ledger, "acme")
    for _ in range(12):
        push(ledger, acme, [ANN])
        audit.record(ledger, "signed_in")
    backdate(ledger, days=401)
    age(ledger, "audit_events", 401, "at")
    went: list[dict[str, int]] = []

    def prune() -> None:
        with database.connect(symvanta_url) as own:
            went.append(pruned(own))

    with meanwhile(prune), meanwhile(prune):
        latest = [push(ledger, acme, [ANN]) for _ in range(8)]
    went.append(pruned(ledger))
    assert sum(each.get("accepted_snapshots", 0) for each in went) == 12
    assert sum(each.get("audit_events", 0) for each in went) == 12
    assert [p.snapshot_id for p in history.pushes(ledger, acme)] == [accepted.id for accepted in latest]


@pytest.mark.parametrize("days", [0, 89])
def test_the_database_refuses_to_forget_the_last_90_days(ledger: psycopg.Connection, days: int) -> None:
    audit.record(ledger, "signed_in")
    age(ledger, "audit_events", 89, "at")
    with pytest.raises(psycopg.errors.CheckViolation, match="the last 90 days stays"):
        retention.prune(ledger, keep_ledger=timedelta(days=days), keep_runs=MONTH)
    for before in (f"now() - interval '{days} days'", "'infinity'", "NULL"):
        with pytest.raises(psycopg.errors.CheckViolation, match="audit log of the last 90 days stays"):
            ledger.execute(f"SELECT prune_audit_events({before})".encode())
    assert count(ledger, "audit_events") == 1


MEDDLING = [
    "UPDATE audit_events SET at = at",
    "UPDATE audit_events SET at = at WHERE false",
    "DELETE FROM audit_events",
    "DELETE FROM audit_events WHERE false",
    "TRUNCATE audit_events",
]


@pytest.fixture
def owner(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """Connect to a database whose owner is nothing else, as in production, migrated by that owner."""
    name = f"owner_{uuid.uuid4().hex[:12]}"
    postgres.ensure_databases(name)
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), PASSWORD))
        admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(*[sql.Identifier(name)] * 2))
        parameters = psycopg.conninfo.conninfo_to_dict(postgres.url(name))
        url = f"postgresql://{name}:{PASSWORD}@{parameters['host']}:{parameters['port']}/{name}"
        database.migrate(url)
        with database.connect(url) as connection:
            yield connection
        postgres.drop(name)
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_the_owner_prunes_the_audit_log_and_can_do_nothing_else_to_it(
    owner: psycopg.Connection, postgres: EmbeddedPostgres
) -> None:
    def refused() -> None:
        for statement in [*MEDDLING, "SET symvanta.pruning = 'on'; DELETE FROM audit_events"]:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table audit_events"):
                owner.execute(statement.encode())
        owner.execute("RESET symvanta.pruning")

    audit.record(owner, "signed_in")
    with psycopg.connect(postgres.url(owner.info.dbname)) as admin:
        age(admin, "audit_events", 401, "at")
    audit.record(owner, "signed_out")
    refused()
    # Who grants himself more still meets the trigger.
    for statement in MEDDLING:
        with owner.transaction(force_rollback=True):
            owner.execute("GRANT ALL ON audit_events TO CURRENT_USER")
            with pytest.raises(psycopg.errors.CheckViolation, match="audit_events is append-only"):
                owner.execute(statement.encode())
    assert pruned(owner) == {"audit_events": 1}
    assert owner.execute("SELECT event FROM audit_events").fetchall() == [("signed_out",)]
    refused()


def test_who_did_not_migrate_prunes_only_where_he_was_allowed_to(ledger: psycopg.Connection) -> None:
    role = f"pruner_{uuid.uuid4().hex[:12]}"
    ledger.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    try:
        ledger.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="function prune_audit_events"):
            ledger.execute("SELECT prune_audit_events(now() - interval '91 days')")
    finally:
        ledger.execute("RESET ROLE")
        ledger.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_nobody_can_put_a_table_of_his_own_in_place(ledger: psycopg.Connection) -> None:
    audit.record(ledger, "signed_in")
    age(ledger, "audit_events", 401, "at")
    ledger.execute("CREATE TEMP TABLE audit_events AS SELECT * FROM public.audit_events")
    assert pruned(ledger) == {"audit_events": 1}
    assert (count(ledger, "pg_temp.audit_events"), count(ledger, "public.audit_events")) == (1, 0)
