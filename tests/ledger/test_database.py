import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from alembic import command
from psycopg.rows import dict_row

from symvanta_pipeline.ledger import audit, connections, consent_requests, database, history, snapshots, web_sessions
from symvanta_pipeline.ledger.database import LedgerOutdated, LedgerUnavailable, connect, migrate, require_current
from symvanta_pipeline.ledger.vault import KeyRing, Token
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres

FIRST_TABLES = {"connections", "tokens", "accepted_snapshots", "intents", "outcomes", "rate_budgets"}
TABLES_OF = {
    "0001": FIRST_TABLES,
    "0002": {"web_sessions", "consent_requests", "audit_events"},
    "0003": {"proofs", "account_states", "account_changes", "approvals"},
    "0004": set(),
    "0005": {"announced", "alerts"},
    "0006": set(),
    "0007": set(),
    "0008": set(),
    "0009": set(),
}
TABLES = set().union(*TABLES_OF.values())
REVISIONS = list(TABLES_OF)
PASSWORD = "canary-password"
MIGRATE = """
import sys
from symvanta_pipeline.ledger.database import migrate
print(",".join(migrate(sys.argv[1])))
"""


@pytest.fixture
def empty_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    name = f"empty_{uuid.uuid4().hex[:12]}"
    postgres.ensure_databases(name)
    yield postgres.url(name)
    postgres.drop(name)


def tables(url: str) -> set[str]:
    with connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {row[0] for row in rows}


def test_migrates_an_empty_database_once(empty_url: str) -> None:
    assert migrate(empty_url) == REVISIONS
    assert tables(empty_url) == TABLES | {database.VERSION_TABLE}
    assert migrate(empty_url) == []
    require_current(empty_url)


def migrate_to(url: str, revision: str) -> None:
    """Bring an empty database as far as an older version of this program did."""
    config = database._alembic_config()
    with database._sqlalchemy_connection(url) as connection:
        config.attributes.update(
            connection=connection, version_table=database.VERSION_TABLE, on_version_apply=lambda **_: None
        )
        command.upgrade(config, revision)


# What the versions wrote, a row a table, in their own words: this program's statements fit the latest tables only.
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
BODY = f"'run', '{NOON}', '{'0' * 64}', 3, 2, 1"
ROWS_OF = {
    "0001": f"""
        INSERT INTO accepted_snapshots
            (organization_id, run_id, read_at, body_sha256, users, active, deactivated, token_generation)
            SELECT organization_id, {BODY}, 1 FROM connections;
        INSERT INTO intents (organization_id, run_id, read_at, body_sha256, users, active, deactivated)
            SELECT organization_id, {BODY} FROM connections;
        INSERT INTO outcomes SELECT organization_id, '{NOON}', 'accepted', NULL, 'run' FROM connections;
        INSERT INTO rate_budgets (name) VALUES ('token');
    """,
    "0002": f"""
        INSERT INTO web_sessions VALUES (sha256('s'), 'k1', 'sealed', '{NOON}', '{NOON + timedelta(days=999)}');
        INSERT INTO consent_requests
            SELECT sha256('c'), sha256('s'), organization_id, '{NOON}', '{NOON + timedelta(days=999)}' FROM connections;
        INSERT INTO audit_events (event, organization_id) SELECT 'connected', organization_id FROM connections;
    """,
    "0003": f"""
        INSERT INTO proofs (snapshot_id, verdict, findings) SELECT id, 'proved', '[]' FROM accepted_snapshots;
        INSERT INTO account_states SELECT organization_id, 'u', 'ACTIVE', 'BASE', 'SSO', 'sso', '{NOON}', 1
            FROM connections;
        INSERT INTO account_changes (organization_id, snapshot_id, at, unique_id, field, new)
            SELECT organization_id, 1, '{NOON}', 'u', 'status', 'ACTIVE' FROM connections;
        INSERT INTO approvals (organization_id, hash, rules, reason, approved_by, expires_at)
            SELECT organization_id, repeat('a', 64), '{{lost}}', 'true', 'eve', clock_timestamp() + interval '4 hours'
            FROM connections;
        UPDATE outcomes SET outcome = 'held', kind = 'lost', hash = repeat('a', 64), since = '{NOON}';
    """,
    "0004": f"UPDATE outcomes SET held_since = '{NOON}';",
    "0005": f"""
        INSERT INTO announced
            SELECT organization_id, 'held', 'lost', '{NOON}', '{{held lost}}', false, '{NOON}' FROM connections;
        INSERT INTO alerts (message_id, target, message) VALUES (gen_random_uuid(), 'log', '{{}}');
    """,
    "0006": "INSERT INTO audit_events (event) VALUES ('keys_rotated')",
    "0007": f"""
        UPDATE outcomes SET at = clock_timestamp();
        INSERT INTO accepted_snapshots
            (organization_id, run_id, read_at, body_sha256, users, active, deactivated, token_generation,
             departure_seconds)
            SELECT organization_id, {BODY}, 1, '{{1.5}}' FROM connections;
    """,
    "0008": "UPDATE outcomes SET generation = 1",
}


def contents(url: str, columns: dict[str, list[str]] | None = None) -> dict[str, list[dict[str, object]]]:
    """Return what each table but the version's holds, or so many of its columns."""
    with connect(url) as connection, connection.cursor(row_factory=dict_row) as cursor:
        return {
            table: cursor.execute(
                f"SELECT {', '.join(columns[table]) if columns else '*'} FROM {table}".encode()
            ).fetchall()
            for table in sorted(columns or tables(url) - {database.VERSION_TABLE})
        }


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_what_an_older_version_kept_is_still_there_and_usable(
    empty_url: str, keyring: KeyRing, token: Callable[[str], Token], revision: str
) -> None:
    organization = uuid.uuid4()
    passed, to_come = [r for r in REVISIONS if r <= revision], [r for r in REVISIONS if r > revision]
    migrate_to(empty_url, revision)
    assert tables(empty_url) == {database.VERSION_TABLE}.union(*(TABLES_OF[r] for r in passed))
    with pytest.raises(LedgerOutdated, match="not up to date; run: symvanta migrate"):
        require_current(empty_url)
    with connect(empty_url) as connection:
        connections.connect_customer(connection, keyring, organization, "acme", token("a"))
        for each in passed:
            connection.execute(ROWS_OF[each].encode())
    before = contents(empty_url)
    assert all(before.values())
    assert migrate(empty_url) == to_come
    require_current(empty_url)
    assert contents(empty_url, {table: list(rows[0]) for table, rows in before.items()}) == before
    with connect(empty_url) as connection:
        assert connections.connect_customer(connection, keyring, organization, "acme", token("b")).generation == 2
        session = web_sessions.begin(connection, keyring, "auth0|1", lifetime=timedelta(hours=1))
        consent_requests.remember(connection, session, "state", organization, lifetime=timedelta(minutes=1))
        audit.record(connection, "connected", organization_id=organization)


def test_who_is_held_by_a_brake_stays_so_since_the_same_time(
    empty_url: str, keyring: KeyRing, token: Callable[[str], Token]
) -> None:
    organization = uuid.uuid4()
    migrate_to(empty_url, "0003")
    with connect(empty_url) as connection:
        connections.connect_customer(connection, keyring, organization, "acme", token("a"))
        for each in ("0001", "0003"):
            connection.execute(ROWS_OF[each].encode())
    migrate(empty_url)
    with connect(empty_url) as connection:
        record = snapshots.customer_record(connection, organization)
        assert record is not None
        assert record.held_since == record.outcome_since == NOON


@pytest.mark.parametrize(("ended", "is_tried"), [("- interval '1 hour'", False), ("+ interval '1 second'", True)])
def test_whether_a_consent_was_tried_is_as_before(
    empty_url: str, keyring: KeyRing, token: Callable[[str], Token], ended: str, *, is_tried: bool
) -> None:
    organization = uuid.uuid4()
    migrate_to(empty_url, "0007")
    with connect(empty_url) as connection:
        for secret in ("a", "b"):
            connections.connect_customer(connection, keyring, organization, "acme", token(secret))
        for each in ("0001", "0003"):
            connection.execute(ROWS_OF[each].encode())
        connection.execute(f"UPDATE outcomes SET at = connected_at {ended} FROM connections".encode())
    migrate(empty_url)
    with connect(empty_url) as connection:
        [record] = snapshots.customer_records(connection)
        assert record.is_tried == is_tried


def test_what_nobody_recorded_before_the_audit_is_not_made_up(
    empty_url: str, keyring: KeyRing, token: Callable[[str], Token]
) -> None:
    organization = uuid.uuid4()
    migrate_to(empty_url, "0002")
    with connect(empty_url) as connection:
        connections.connect_customer(connection, keyring, organization, "acme", token("a"))
        connection.execute(ROWS_OF["0001"].encode())
    migrate(empty_url)
    with connect(empty_url) as connection:
        assert history.is_first(connection, organization)
        assert history.states(connection, organization) == []
        assert history.possible(connection, organization) == []
        accepted, open_intent = history.pushes(connection, organization)
        assert (accepted.verdict, accepted.read_at, accepted.token_generation) == ("accepted", NOON, 1)
        assert (accepted.counts, accepted.latency_seconds, accepted.unchanged, accepted.proof) == (None,) * 4
        assert open_intent.verdict == "possibly applied"
        [record] = snapshots.customer_records(connection)
        assert (record.outcome_since, record.outcome_kind) == (NOON, None)
        # A push of the kind that has no states says nothing about accounts; the next one with states is the first.
        snapshot = snapshots.Snapshot(organization, "run", NOON, "0" * 64, 1, 1, 0)
        snapshots.record_accepted(connection, snapshots.record_intent(connection, snapshot), token_generation=1)
        assert history.is_first(connection, organization)
        intent = snapshots.record_intent(connection, snapshot, states=[["u1", "ACTIVE", "BASE", "SSO", "sso"]])
        assert snapshots.record_accepted(connection, intent, token_generation=1).unchanged
        assert not history.is_first(connection, organization)


def test_every_table_says_what_it_is(symvanta_url: str) -> None:
    with connect(symvanta_url) as connection:
        silent = connection.execute(
            "SELECT relname FROM pg_class WHERE relname = ANY(%s) AND obj_description(oid, 'pg_class') IS NULL",
            [list(TABLES)],
        ).fetchall()
    assert silent == []


def test_times_are_all_with_time_zone(symvanta_url: str) -> None:
    with connect(symvanta_url) as connection:
        naive = connection.execute(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = 'public' AND data_type = 'timestamp without time zone'"
        ).fetchall()
    assert naive == []


def test_two_processes_that_migrate_at_once_apply_it_once(empty_url: str) -> None:
    with connect(empty_url) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [database._MIGRATION_LOCK])
        processes = [
            subprocess.Popen([sys.executable, "-c", MIGRATE, empty_url], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        waiting, deadline = 0, time.monotonic() + 30
        while waiting < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
            [(waiting,)] = holder.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ).fetchall()
        assert waiting == 2  # both are past the point where they could still miss each other
    outputs = sorted(process.communicate(timeout=60)[0].strip() for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs == ["", ",".join(REVISIONS)]


def test_leaves_a_foreign_version_table_alone(empty_url: str) -> None:
    with connect(empty_url) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
        connection.execute("INSERT INTO alembic_version VALUES ('of somebody else')")
    assert migrate(empty_url) == REVISIONS
    require_current(empty_url)
    with connect(empty_url) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("of somebody else",)]


def test_a_migration_that_breaks_leaves_nothing_behind(empty_url: str) -> None:
    with connect(empty_url) as connection:
        connection.execute("CREATE TABLE rate_budgets ()")  # the last table of the first revision is in the way
    with pytest.raises(LedgerUnavailable, match="already exists"):
        migrate(empty_url)
    assert tables(empty_url) == {"rate_budgets"}


def test_absent_tables_are_told(empty_url: str) -> None:
    with pytest.raises(LedgerOutdated, match="do not exist yet; run: symvanta migrate"):
        require_current(empty_url)
    assert tables(empty_url) == set()


def test_newer_tables_are_told(symvanta_url: str) -> None:
    with connect(symvanta_url) as connection:
        connection.execute("UPDATE symvanta_alembic_version SET version_num = '9999'")
    with pytest.raises(LedgerOutdated, match="newer than this program"):
        require_current(symvanta_url)
    with pytest.raises(LedgerOutdated, match="newer than this program"):
        migrate(symvanta_url)


def test_an_empty_version_table_is_outdated(symvanta_url: str) -> None:
    with connect(symvanta_url) as connection:
        connection.execute("DELETE FROM symvanta_alembic_version")
    with pytest.raises(LedgerOutdated, match="symvanta migrate"):
        require_current(symvanta_url)


def test_migrating_prints_and_configures_nothing(empty_url: str) -> None:
    code = MIGRATE.replace("print", "len") + "import logging; assert not logging.root.handlers"
    done = subprocess.run([sys.executable, "-c", code, empty_url], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2"])
def test_every_form_of_the_url_is_taken(symvanta_url: str, scheme: str) -> None:
    url = symvanta_url.replace("postgresql://", f"{scheme}://", 1)
    require_current(url)
    with connect(url, application_name="somebody") as connection:
        assert connection.autocommit
        assert connection.execute("SHOW application_name").fetchone() == ("somebody",)
        assert connection.execute("SHOW statement_timeout").fetchone() == ("30s",)
        assert connection.execute("SHOW idle_in_transaction_session_timeout").fetchone() == ("1min",)
        assert connection.execute("SHOW tcp_keepalives_idle").fetchone() == ("30",)
        assert connection.execute("SHOW TimeZone").fetchone() == ("UTC",)


def test_the_url_outranks_the_defaults(symvanta_url: str) -> None:
    mark = "&" if "?" in symvanta_url else "?"
    with connect(f"{symvanta_url}{mark}options=-c%20statement_timeout%3D7s") as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("7s",)
        assert connection.execute("SHOW TimeZone").fetchone() == ("UTC",)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://somebody:{PASSWORD}@127.0.0.1:1/ledger",  # nobody listens there
        f"postgresql://somebody:{PASSWORD}@127.0.0.1:{PASSWORD}/ledger",
        f"postgresql://somebody:{PASSWORD}@[::1/ledger",
        f"postgresql://somebody:{PASSWORD}%zz@127.0.0.1/ledger",
        f"postgresql://somebody:x@{PASSWORD}@127.0.0.1/ledger",
        f"postgresql://localhost:{PASSWORD}/x@127.0.0.1/ledger",
        f"postgresql://localhost:1/{PASSWORD}@127.0.0.1/ledger",
        f"mysql://somebody:{PASSWORD}@127.0.0.1/ledger",
        f"host=127.0.0.1 password={PASSWORD}",
        f"postgresql://127.0.0.1:1/ledger?password={PASSWORD}",
    ],
)
@pytest.mark.parametrize("use", [connect, migrate, require_current])
def test_no_failure_shows_the_password(url: str, use: object, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    assert callable(use)
    with pytest.raises(LedgerUnavailable) as caught:
        use(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert PASSWORD not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
    assert PASSWORD not in caplog.text


def test_a_refused_password_is_told_without_it(symvanta_url: str) -> None:
    parameters = psycopg.conninfo.conninfo_to_dict(symvanta_url)
    url = "postgresql://{user}:{0}@{host}:{port}/{dbname}".format(PASSWORD, **parameters)
    with pytest.raises(LedgerUnavailable, match="password authentication failed") as caught:
        connect(url)
    assert PASSWORD not in str(caught.value)
