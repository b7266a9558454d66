"""What was written into the history stays as it was, whoever asks, and goes by the one narrow way only."""

import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from symvanta_pipeline.ledger import approvals, database, history
from symvanta_pipeline.ledger.connections import Connection, all_connections, connect_customer
from symvanta_pipeline.ledger.history import AccessChange
from symvanta_pipeline.ledger.vault import KeyRing, Token
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from tests.ledger.conftest import backdate, push

Connect = Callable[..., Connection]

HISTORY = ("accepted_snapshots", "proofs", "account_changes", "approvals")
APPEND_ONLY = HISTORY[:3]
PASSWORD = "throw-away"
HELD = "ab" * 32
ANN = ["ann", "ACTIVE", "ADMIN", "PASSWORD", "on"]
BOB = ["bob", "ACTIVE", "BASE", "SSO", "sso"]


@pytest.fixture
def symvanta_url(ledger_url: str) -> str:
    """One database for all of these tests, emptied before each."""
    return ledger_url


def filled(ledger: psycopg.Connection, organization: uuid.UUID) -> None:
    """Write something into every table of the history: two pushes, the first one approved and proved."""
    approval = approvals.approve(ledger, organization, HELD, rules=["lost"], reason="a sale", by="ops")
    accepted = push(ledger, organization, [ANN, BOB], approval_id=approval.id)
    history.record_proof(ledger, accepted.id, "proved", [])
    push(ledger, organization, [ANN])


def contents(ledger: psycopg.Connection) -> dict[str, list[tuple[object, ...]]]:
    return {table: ledger.execute(f"SELECT * FROM {table} ORDER BY 1, 2".encode()).fetchall() for table in HISTORY}


def meddling(table: str) -> list[str]:
    """List the statements that would change a table's history, also such as touch no row."""
    column = {"approvals": "reason", "accepted_snapshots": "run_id"}.get(table, "at")
    return [
        f"UPDATE {table} SET {column} = {column}",
        f"UPDATE {table} SET {column} = {column} WHERE false",
        f"DELETE FROM {table}",
        f"DELETE FROM {table} WHERE false",
        f"TRUNCATE {table}",
    ]


@pytest.mark.parametrize("statement", [s for table in APPEND_ONLY for s in meddling(table)])
def test_triggers_keep_it_from_a_superuser(ledger: psycopg.Connection, connected: Connect, statement: str) -> None:
    filled(ledger, connected().organization_id)
    before = contents(ledger)
    with pytest.raises(psycopg.errors.CheckViolation, match="is append-only"):
        ledger.execute(statement.encode())
    assert contents(ledger) == before


def test_an_insert_cannot_become_an_update(ledger: psycopg.Connection, connected: Connect) -> None:
    filled(ledger, connected().organization_id)
    with pytest.raises(psycopg.errors.CheckViolation, match="is append-only"):
        ledger.execute(
            "INSERT INTO proofs SELECT * FROM proofs ON CONFLICT (snapshot_id, at) DO UPDATE SET verdict = 'unreadable'"
        )


@pytest.fixture(scope="module")
def owner_role(postgres: EmbeddedPostgres) -> Iterator[tuple[str, str]]:
    """Give a database whose owner is nothing else, as in production, and that role's URL, migrated by it."""
    name = f"owner_{uuid.uuid4().hex[:12]}"
    postgres.ensure_databases(name)
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), PASSWORD))
        admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(*[sql.Identifier(name)] * 2))
        parameters = psycopg.conninfo.conninfo_to_dict(postgres.url(name))
        url = f"postgresql://{name}:{PASSWORD}@{parameters['host']}:{parameters['port']}/{name}"
        assert database.migrate(url)[-1] == "0009"
        yield name, url
        postgres.drop(name)
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.fixture
def owner(owner_role: tuple[str, str]) -> Iterator[psycopg.Connection]:
    with database.connect(owner_role[1]) as connection:
        yield connection


@pytest.fixture
def filled_by_owner(owner: psycopg.Connection, keyring: KeyRing, token: Callable[[str], Token]) -> uuid.UUID:
    organization = uuid.uuid4()
    connect_customer(owner, keyring, organization, organization.hex, token("x"))
    filled(owner, organization)
    return organization


@pytest.mark.usefixtures("filled_by_owner")
@pytest.mark.parametrize("table", HISTORY)
def test_grants_keep_it_from_its_own_owner(owner: psycopg.Connection, table: str) -> None:
    before = contents(owner)
    assert all(before.values())
    for statement in [*meddling(table), f"SET symvanta.pruning = 'on'; DELETE FROM {table}"]:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=f"permission denied for table {table}"):
            owner.execute(statement.encode())
    assert contents(owner) == before


@pytest.mark.usefixtures("filled_by_owner")
@pytest.mark.parametrize("table", HISTORY)
def test_and_so_do_triggers_where_the_owner_grants_himself_more(owner: psycopg.Connection, table: str) -> None:
    before = contents(owner)
    for statement in meddling(table):
        if (table, statement.split()[0]) == ("approvals", "UPDATE"):
            continue  # judged row by row; see the tests of approvals
        with owner.transaction(force_rollback=True):
            owner.execute(f"GRANT ALL ON {table} TO CURRENT_USER".encode())
            with pytest.raises(psycopg.errors.CheckViolation, match="is append-only"):
                owner.execute(statement.encode())
    assert contents(owner) == before


def changes(ledger: psycopg.Connection, unique_id: str | None = None) -> dict[uuid.UUID, list[AccessChange]]:
    """Return the changes of each organization, of all accounts or of one."""
    organizations = [c.organization_id for c in all_connections(ledger)]
    return {o: [c for c in history.changes(ledger, o) if unique_id in {None, c.unique_id}] for o in organizations}


class TestPruning:
    """`prune_history`, the one way out."""

    def pruned(self, ledger: psycopg.Connection, days: int, *batch: int) -> int:
        arguments = ", ".join(["now() - make_interval(days => %s)", *map(str, batch)])
        [(count,)] = ledger.execute(f"SELECT prune_history({arguments})".encode(), [days]).fetchall()
        return int(count)

    def test_what_is_old_goes_and_the_latest_and_the_states_stay(
        self, ledger: psycopg.Connection, connected: Connect
    ) -> None:
        acme, dormant = (connected(slug).organization_id for slug in ("acme", "dormant"))
        filled(ledger, acme)
        filled(ledger, dormant)
        backdate(ledger, days=200)
        recent = push(ledger, acme, [ANN, BOB])
        states = {o: history.states(ledger, o) for o in (acme, dormant)}
        before = changes(ledger)
        last = history.pushes(ledger, dormant)[-1]
        assert self.pruned(ledger, 100) == 3
        assert [p.snapshot_id for p in history.pushes(ledger, acme)] == [recent.id]
        assert history.pushes(ledger, dormant) == [last]
        # Of the changes, one alone was no longer how an account was when the pruned time ended.
        of_bob = {
            o: [(c.old, c.new) for c in told if c.field == "status"] for o, told in changes(ledger, "bob").items()
        }
        assert of_bob == {
            acme: [("ACTIVE", "ABSENT"), ("ABSENT", "ACTIVE")],
            dormant: [(None, "ACTIVE"), ("ACTIVE", "ABSENT")],
        }
        others = {o: [c for c in told if c.field != "status"] for o, told in changes(ledger).items()}
        assert others == {o: [c for c in told if c.field != "status"] for o, told in before.items()}
        assert {o: history.states(ledger, o) for o in (acme, dormant)} == states
        assert (contents(ledger)["proofs"], contents(ledger)["approvals"]) == ([], [])
        assert self.pruned(ledger, 100) == 0

    def test_what_is_newer_than_asked_stays(self, ledger: psycopg.Connection, connected: Connect) -> None:
        filled(ledger, connected().organization_id)
        backdate(ledger, days=200)
        before = contents(ledger)
        assert self.pruned(ledger, 201) == 0
        assert contents(ledger) == before

    def test_it_goes_in_batches(self, ledger: psycopg.Connection, connected: Connect) -> None:
        organization = connected().organization_id
        for _ in range(6):
            push(ledger, organization, [ANN])
        backdate(ledger, days=200)
        oldest = [p.snapshot_id for p in history.pushes(ledger, organization)]
        assert self.pruned(ledger, 100, 2) == 2
        assert [p.snapshot_id for p in history.pushes(ledger, organization)] == oldest[2:]
        assert [self.pruned(ledger, 100, 2) for _ in range(3)] == [2, 1, 0]

    @pytest.mark.parametrize(
        "before", ["now()", "now() - interval '90 days' + interval '1 minute'", "'infinity'", "NULL"]
    )
    def test_the_last_90_days_stay(self, ledger: psycopg.Connection, connected: Connect, before: str) -> None:
        filled(ledger, connected().organization_id)
        backdate(ledger, days=89)
        kept = contents(ledger)
        with pytest.raises(psycopg.errors.CheckViolation, match="last 90 days"):
            ledger.execute(f"SELECT prune_history({before})".encode())
        assert contents(ledger) == kept

    def test_an_owner_can_and_has_no_more_rights_after(
        self,
        owner_role: tuple[str, str],
        owner: psycopg.Connection,
        filled_by_owner: uuid.UUID,
        postgres: EmbeddedPostgres,
    ) -> None:
        with psycopg.connect(postgres.url(owner_role[0]), autocommit=True) as admin:
            backdate(admin, days=200)
        assert self.pruned(owner, 100) >= 1
        assert len(history.pushes(owner, filled_by_owner)) == 1
        self.is_kept(owner)

    def is_kept(self, owner: psycopg.Connection) -> None:
        """Nothing of what pruning may do is left to the session."""
        assert owner.execute("SELECT current_setting('symvanta.pruning', true)").fetchone() in {(None,), ("",)}
        for table in HISTORY:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                owner.execute(f"DELETE FROM {table} WHERE false".encode())

    def test_after_a_refusal_neither(self, owner: psycopg.Connection) -> None:
        with pytest.raises(psycopg.errors.CheckViolation):
            self.pruned(owner, 1)
        self.is_kept(owner)

    def test_who_may_prune_may_do_nothing_else(
        self,
        owner_role: tuple[str, str],
        owner: psycopg.Connection,
        filled_by_owner: uuid.UUID,
        postgres: EmbeddedPostgres,
    ) -> None:
        pruner = f"pruner_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(postgres.url(owner_role[0]), autocommit=True) as admin:
            backdate(admin, days=200)
            admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(pruner)))
            with psycopg.connect(postgres.url(owner_role[0]), autocommit=True) as session:
                session.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(pruner)))
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="function prune_history"):
                    self.pruned(session, 100)
                owner.execute(sql.SQL("GRANT EXECUTE ON FUNCTION prune_history TO {}").format(sql.Identifier(pruner)))
                assert self.pruned(session, 100) >= 1
                for table in HISTORY:
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        session.execute(f"SELECT FROM {table}".encode())
            owner.execute(sql.SQL("REVOKE EXECUTE ON FUNCTION prune_history FROM {}").format(sql.Identifier(pruner)))
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(pruner)))
        assert len(history.pushes(owner, filled_by_owner)) == 1

    def test_nobody_can_put_a_table_of_his_own_in_place(self, ledger: psycopg.Connection, connected: Connect) -> None:
        filled(ledger, connected().organization_id)
        backdate(ledger, days=200)
        ledger.execute("CREATE TEMP TABLE accepted_snapshots AS SELECT * FROM public.accepted_snapshots")
        assert self.pruned(ledger, 100) == 1
        assert ledger.execute("SELECT count(*) FROM pg_temp.accepted_snapshots").fetchone() == (2,)
        assert ledger.execute("SELECT count(*) FROM public.accepted_snapshots").fetchone() == (1,)
