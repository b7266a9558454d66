"""Every check is made to find what it is there for, by really making the installation ill, and says what to do."""

import base64
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorStatus, TickData, TickStatus
from dagster._core.storage.dagster_run import DagsterRun
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo

from symvanta_pipeline.accounts import brakes
from symvanta_pipeline.doctor import examination, instance, machine
from symvanta_pipeline.doctor.verdict import Verdict
from symvanta_pipeline.sandbox import demo_customers
from tests.doctor.installation import (
    CLIENT_SECRET,
    LOGIN_SECRET,
    MARKER,
    PASSWORD,
    Installation,
    as_role,
    execute,
)
from tests.doctor.pooler import pooled
from tests.support.parts import KEYS, refusing_connections
from tests.support.stack import CHECKOUT
from tests.support.standby import running_pair

CLOSED_PORT = "http://127.0.0.1:1"
OTHER_KEY = "k2:" + base64.urlsafe_b64encode(bytes(range(1, 33))).decode()
SECRETS = (PASSWORD, CLIENT_SECRET, LOGIN_SECRET, MARKER, "canary", KEYS.partition(":")[2])
BY_NAME = {check.name: check for check in examination.CHECKS}

Ill = Callable[[Installation, pytest.MonkeyPatch, Path], AbstractContextManager[object]]


def look(name: str) -> dict[str, Verdict]:
    """Go through one check and those that it needs; nothing that they say may give anything away."""
    verdicts = examination.examine([BY_NAME[each] for each in (*_needed(name), name)])
    for verdict in verdicts.values():
        told = f"{verdict.detail} {verdict.do}".lower()
        assert not [secret for secret in SECRETS if secret.lower() in told], verdict
        assert "\n" not in told
        assert verdict.do if verdict.state in ("warn", "fail") else not verdict.do, verdict
    return verdicts


def _needed(name: str) -> Sequence[str]:
    found: dict[str, None] = {}
    for need in BY_NAME[name].needs:
        found |= dict.fromkeys([*_needed(need), need])
    return list(found)


@dataclass(frozen=True)
class Case:
    """An ill, and what has to be said of it.

    Attributes:
        ill: what is wrong.
        check: which check finds it.
        state: its state.
        detail: what it says.
        do: what it advises.
        make: makes it so, and well again.
    """

    ill: str
    check: str
    state: str
    detail: str
    do: str
    make: Ill


# Ways to be ill.


def with_settings(**values: str | None) -> Ill:
    def make(_well: Installation, patch: pytest.MonkeyPatch, _folder: Path) -> AbstractContextManager[object]:
        for name, value in values.items():
            if value is None:
                patch.delenv(name)
            else:
                patch.setenv(name, value)
        return nullcontext()

    return make


def at(url: Callable[[Installation], str], done: str, undone: str) -> Ill:
    """Change a database, `{reader}` and `{owner}` being its roles and `{acme}` an organization's id."""

    @contextmanager
    def make(well: Installation, _patch: pytest.MonkeyPatch, _folder: Path) -> Iterator[None]:
        names = {"reader": well.reader, "owner": well.owner, "acme": well.ids["acme"]}
        execute(url(well), *done.format(**names).split(";"))
        try:
            yield
        finally:
            execute(url(well), *undone.format(**names).split(";"))

    return make


at_sym = partial(at, lambda well: well.sym_admin)
at_own = partial(at, lambda well: well.own_admin)
at_dagster = partial(at, lambda well: well.dagster_admin)


def patched(target: object, name: str, value: object) -> Ill:
    def make(_well: Installation, patch: pytest.MonkeyPatch, _folder: Path) -> AbstractContextManager[object]:
        patch.setattr(target, name, value)
        return nullcontext()

    return make


def superuser(variable: str) -> Ill:
    def make(well: Installation, patch: pytest.MonkeyPatch, _folder: Path) -> AbstractContextManager[object]:
        patch.setenv(variable, {"SYM_DATABASE_URL": well.sym_admin}.get(variable, well.own_admin))
        return nullcontext()

    return make


@contextmanager
def another_role(
    well: Installation,
    patch: pytest.MonkeyPatch,
    _folder: Path,
    *,
    grants: str,
    variable: str = "SYMVANTA_DATABASE_URL",
    but: str = "SELECT 1",
) -> Iterator[None]:
    """Reach the pipeline's own database, or Dagster's, as a role that owns nothing."""
    role = f"other_{uuid4().hex[:12]}"
    is_own = variable == "SYMVANTA_DATABASE_URL"
    admin = well.own_admin if is_own else well.dagster_admin
    execute(
        admin,
        f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'",
        f"GRANT {grants} ON ALL TABLES IN SCHEMA public TO {role}",
        *but.format(role=role).split(";"),
    )
    url = as_role(admin, role)
    patch.setenv(variable, url if is_own else url.replace("postgresql:", "postgresql+psycopg2:", 1))
    try:
        yield
    finally:
        execute(admin, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@contextmanager
def refused(well: Installation, _patch: pytest.MonkeyPatch, _folder: Path, *, variable: str) -> Iterator[None]:
    """Let the server take no connection to one database."""
    with refusing_connections(well.env[variable], well.server):
        yield


@contextmanager
def through_a_pooler(well: Installation, patch: pytest.MonkeyPatch, _folder: Path) -> Iterator[None]:
    with pooled(well.env["SYMVANTA_DATABASE_URL"]) as url:
        patch.setenv("SYMVANTA_DATABASE_URL", url)
        yield


@contextmanager
def empty_database(well: Installation, patch: pytest.MonkeyPatch, _folder: Path, *, variable: str) -> Iterator[None]:
    name = f"empty_{uuid4().hex[:12]}"
    well.server.ensure_databases(name)
    patch.setenv(variable, well.server.url(name))
    try:
        yield
    finally:
        well.server.drop(name)


@contextmanager
def stale_standby(_well: Installation, patch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """Read from a real standby, by a limit that none can keep."""
    with running_pair(folder, "sym") as pair:
        demo_customers.create_schema(pair.primary_url)
        pair.catch_up()
        patch.setenv("SYM_DATABASE_URL", pair.standby_url)
        assert re.fullmatch(
            r"answers: a standby, complete up to \d+ s ago", look("sym database")["sym database"].detail
        )
        patch.setattr(brakes, "LIMITS", replace(brakes.LIMITS, standby_lag_seconds=-1))
        yield


@contextmanager
def skewed(
    well: Installation, _patch: pytest.MonkeyPatch, _folder: Path, *, where: str, role: str, by: str
) -> Iterator[None]:
    """Put a clock that is off in front of a database's own, for one role."""
    url, name = getattr(well, where), getattr(well, role)
    execute(
        url,
        "CREATE SCHEMA skewed",
        "CREATE FUNCTION skewed.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS"
        f" $$ SELECT pg_catalog.clock_timestamp() + interval '{by}' $$",
        f"GRANT USAGE ON SCHEMA skewed TO {name}",
        f"ALTER ROLE {name} SET search_path = skewed, pg_catalog, public",
    )
    try:
        yield
    finally:
        execute(url, f"ALTER ROLE {name} RESET search_path", "DROP SCHEMA skewed CASCADE")


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Serve one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{serving.server_address[1]}"
        finally:
            serving.shutdown()
            thread.join()


@contextmanager
def vanta_answers(
    _well: Installation, patch: pytest.MonkeyPatch, _folder: Path, *, status: int = 200, ahead: timedelta = timedelta()
) -> Iterator[None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response_only(status)
        request.send_header("Date", format_datetime(datetime.now(UTC) + ahead, usegmt=True))
        request.end_headers()

    with server(answer) as url:
        patch.setenv("VANTA_API_URL", url)
        patch.setenv("VANTA_APP_URL", url)
        yield


@contextmanager
def hanging() -> Iterator[int]:
    """Take connections and never answer; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@contextmanager
def hanging_vanta(_well: Installation, patch: pytest.MonkeyPatch, _folder: Path) -> Iterator[None]:
    with hanging() as port:
        patch.setenv("VANTA_API_URL", f"http://127.0.0.1:{port}")
        patch.setattr("symvanta_pipeline.doctor.network.TIMEOUT", (0.2, 0.2))
        yield


@contextmanager
def login_fault(well: Installation, _patch: pytest.MonkeyPatch, _folder: Path) -> Iterator[None]:
    well.login.fault("html", on="discovery")
    yield
    assert well.login.faults()[0]["fired"] == 1
    well.login.clear_faults()


[LAUNCHER] = re.findall(r"^run_launcher:\n(?:  .*\n)+", (CHECKOUT / "dagster.yaml").read_text(), re.MULTILINE)


@contextmanager
def dagster_yaml(
    well: Installation, _patch: pytest.MonkeyPatch, _folder: Path, *, old: str, new: str
) -> Iterator[None]:
    file = well.home / "dagster.yaml"
    before = file.read_text()
    assert old in before
    file.write_text(before.replace(old, new))
    try:
        yield
    finally:
        file.write_text(before)


@contextmanager
def no_home(well: Installation, patch: pytest.MonkeyPatch, _folder: Path, *, stay: bool) -> Iterator[None]:
    patch.delenv("DAGSTER_HOME")
    if stay:
        patch.chdir(well.home)
    yield


@contextmanager
def heartbeats(
    well: Installation, _patch: pytest.MonkeyPatch, _folder: Path, *, old: bool = False, erring: bool = False
) -> Iterator[None]:
    """Write what a daemon writes, in place of what it wrote."""
    with writing(well) as dagster:
        before = dagster.get_daemon_heartbeats()
        errors = [SerializableErrorInfo("canary", [], None)] if erring else None
        for kind, beat in before.items():
            at = beat.timestamp - 600 * old
            dagster.add_daemon_heartbeat(DaemonHeartbeat(at, kind, beat.daemon_id, errors))
        try:
            yield
        finally:
            for beat in before.values():
                dagster.add_daemon_heartbeat(beat)


@contextmanager
def writing(well: Installation) -> Iterator[dg.DagsterInstance]:
    """Open Dagster's instance as its daemon does."""
    with dg.DagsterInstance.from_config(str(well.home)) as dagster:
        yield dagster


@contextmanager
def switched_off(well: Installation, _patch: pytest.MonkeyPatch, _folder: Path, *, name: str) -> Iterator[None]:
    with writing(well) as dagster:
        [state] = [state for state in dagster.all_instigator_state() if state.instigator_name == name]
        dagster.update_instigator_state(state.with_status(InstigatorStatus.STOPPED))
        try:
            yield
        finally:
            dagster.update_instigator_state(state)


@contextmanager
def ticked(
    well: Installation, _patch: pytest.MonkeyPatch, _folder: Path, *, status: TickStatus, ago: timedelta
) -> Iterator[None]:
    with writing(well) as dagster:
        [state] = [s for s in dagster.all_instigator_state() if s.instigator_name == instance.HOURLY]
        dagster.create_tick(
            TickData(
                state.instigator_origin_id,
                state.instigator_name,
                state.instigator_type,
                status,
                (datetime.now(UTC) - ago).timestamp(),
                error=SerializableErrorInfo("canary", [], None) if status is TickStatus.FAILURE else None,
                selector_id=state.selector_id,
            )
        )
    yield
    execute(well.dagster_admin, f"DELETE FROM job_ticks WHERE selector_id = '{state.selector_id}'")


@contextmanager
def queued(well: Installation, _patch: pytest.MonkeyPatch, _folder: Path, *, ago: str) -> Iterator[None]:
    with writing(well) as dagster:
        origin = dagster.all_instigator_state()[0].origin.repository_origin.get_job_origin("user_account_sync_job")
        run = DagsterRun("user_account_sync_job", status=dg.DagsterRunStatus.QUEUED, remote_job_origin=origin)
        dagster.run_storage.add_run(run)
    execute(well.dagster_admin, f"UPDATE runs SET create_timestamp = now() AT TIME ZONE 'UTC' - interval '{ago}'")
    yield
    execute(well.dagster_admin, "DELETE FROM runs")


@contextmanager
def open_folder(well: Installation, _patch: pytest.MonkeyPatch, _folder: Path) -> Iterator[None]:
    folder = Path(well.env["SYMVANTA_DATA_URL"])
    folder.chmod(0o755)
    yield
    folder.chmod(0o700)


@contextmanager
def no_folder(_well: Installation, patch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    (folder / "file").touch()
    patch.setenv("SYMVANTA_DATA_URL", str(folder / "file" / "data"))
    yield


MANY = """INSERT INTO connections (organization_id, customer, state, generation, connected_at)
    SELECT gen_random_uuid(), 'many-' || n, 'connected', 1, now() FROM generate_series(1, {}) AS n"""
NO_LONGER_MANY = "SET LOCAL session_replication_role = replica;DELETE FROM connections WHERE customer LIKE 'many-%'"
ALL_BUT_TWO = 238  # of the 240 that fit into an hour, two are there already


@contextmanager
def one_put_a_minute(well: Installation, patch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    patch.setenv("VANTA_RESOURCE_REQUESTS_PER_MINUTE", "1")
    with at_own(MANY.format(60), NO_LONGER_MANY)(well, patch, folder):
        yield


CASES = (
    Case(
        "several settings at once",
        "settings",
        "fail",
        "SYMVANTA_TOKEN_KEYS is malformed.*VANTA_CLIENT_ID is not set.*SYMVANTA_PUBLIC_URL is malformed",
        "docs/production.md",
        with_settings(VANTA_CLIENT_ID=None, SYMVANTA_TOKEN_KEYS="k1:canary", SYMVANTA_PUBLIC_URL="canary"),
    ),
    Case(
        "a blank one",
        "settings",
        "fail",
        "^SYM_DATABASE_URL is not set: [^;]*$",
        ".env",
        with_settings(SYM_DATABASE_URL=" "),
    ),
    Case(
        "no login at all",
        "login settings",
        "warn",
        "none of SYM_OIDC_ISSUER, SYM_OIDC_CLIENT_ID, SYM_OIDC_CLIENT_SECRET",
        "if the app is used",
        with_settings(SYM_OIDC_ISSUER=None, SYM_OIDC_CLIENT_ID=None, SYM_OIDC_CLIENT_SECRET=None),
    ),
    Case(
        "half a login",
        "login settings",
        "fail",
        "^SYM_OIDC_CLIENT_SECRET is not set",
        "docs/production.md",
        with_settings(SYM_OIDC_CLIENT_SECRET=None),
    ),
    Case(
        "Sym's database is down",
        "sym database",
        "fail",
        "cannot connect to Sym's database",
        "start it, or correct SYM_DATABASE_URL",
        partial(refused, variable="SYM_DATABASE_URL"),
    ),
    Case(
        "a password that spoils its URL",
        "sym database",
        "fail",
        "cannot connect|not a PostgreSQL URL",
        "SYM_DATABASE_URL",
        with_settings(SYM_DATABASE_URL="postgresql://u:canary@/pa/ss@127.0.0.1:1/sym"),
    ),
    Case("a standby that is behind", "sym database", "fail", "standby", "standby is behind", stale_standby),
    Case(
        "a table that may not be read",
        "sym tables",
        "fail",
        "permission denied for table identities",
        "GRANT SELECT",
        at_sym("REVOKE SELECT ON identities FROM {reader}", "GRANT SELECT ON identities TO {reader}"),
    ),
    Case(
        "a column that is gone",
        "sym tables",
        "fail",
        "mfa_factors does not exist",
        "adapt the SQL file",
        at_sym(
            "ALTER TABLE identities RENAME mfa_factors TO factors",
            "ALTER TABLE identities RENAME factors TO mfa_factors",
        ),
    ),
    Case(
        "a column of another type",
        "sym tables",
        "fail",
        "users.sql returns updated_at as timestamp and not as timestamptz",
        "adapt the SQL file",
        at_sym(
            "ALTER TABLE users ALTER updated_at TYPE timestamp", "ALTER TABLE users ALTER updated_at TYPE timestamptz"
        ),
    ),
    Case(
        "a role that may insert",
        "sym role",
        "warn",
        r"could write to 2 tables: public\.identities, public\.users",
        r"REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON public\.identities, public\.users FROM reader_",
        at_sym("GRANT INSERT ON users, identities TO {reader}", "REVOKE INSERT ON users, identities FROM {reader}"),
    ),
    Case(
        "a role that may change a column",
        "sym role",
        "warn",
        r"could write to 1 table: public\.users",
        "REVOKE",
        at_sym("GRANT UPDATE (email) ON users TO {reader}", "REVOKE UPDATE (email) ON users FROM {reader}"),
    ),
    Case(
        "a role that may truncate",
        "sym role",
        "warn",
        r"public\.organizations",
        "REVOKE",
        at_sym("GRANT TRUNCATE ON organizations TO {reader}", "REVOKE TRUNCATE ON organizations FROM {reader}"),
    ),
    Case(
        "a role that owns a table",
        "sym role",
        "warn",
        r"could write to 1 table: public\.identities",
        "docs/production.md has the SQL",
        at_sym(
            "ALTER TABLE identities OWNER TO {reader}",
            "REASSIGN OWNED BY {reader} TO symvanta;GRANT SELECT ON identities TO {reader}",
        ),
    ),
    Case(
        "a role that may create tables",
        "sym role",
        "warn",
        "could create objects in Sym's schema public",
        "REVOKE CREATE ON SCHEMA public FROM reader_",
        at_sym("GRANT CREATE ON SCHEMA public TO {reader}", "REVOKE CREATE ON SCHEMA public FROM {reader}"),
    ),
    Case(
        "a role that may become one that writes",
        "sym role",
        "warn",
        r"could write to 1 table: public\.users",
        "and from every role that it is a member of",
        at_sym(
            "CREATE ROLE writer_{reader};GRANT UPDATE ON users TO writer_{reader};"
            "GRANT writer_{reader} TO {reader} WITH INHERIT FALSE, SET TRUE",
            "DROP OWNED BY writer_{reader};DROP ROLE writer_{reader}",
        ),
    ),
    Case(
        "a role that may become one that creates",
        "sym role",
        "warn",
        "could create objects in Sym's schema public",
        "REVOKE CREATE ON SCHEMA public",
        at_sym(
            "CREATE ROLE writer_{reader};GRANT CREATE ON SCHEMA public TO writer_{reader};"
            "GRANT writer_{reader} TO {reader} WITH INHERIT FALSE, SET TRUE",
            "DROP OWNED BY writer_{reader};DROP ROLE writer_{reader}",
        ),
    ),
    Case(
        "a role that may become a superuser",
        "sym role",
        "warn",
        "is a superuser, or may become one",
        "production.md",
        at_sym(
            "CREATE ROLE writer_{reader} SUPERUSER;GRANT writer_{reader} TO {reader} WITH INHERIT FALSE, SET TRUE",
            "DROP ROLE writer_{reader}",
        ),
    ),
    Case("a superuser", "sym role", "warn", "is a superuser", "production.md", superuser("SYM_DATABASE_URL")),
    Case(
        "no index",
        "sym index",
        "warn",
        "identities.external_id has no index",
        "CREATE INDEX CONCURRENTLY",
        at_sym("DROP INDEX identities_external_id", "CREATE INDEX identities_external_id ON identities (external_id)"),
    ),
    Case(
        "the own database is down",
        "own database",
        "fail",
        "cannot be reached",
        "start it, or correct SYMVANTA_DATABASE_URL",
        partial(refused, variable="SYMVANTA_DATABASE_URL"),
    ),
    Case(
        "a malformed URL",
        "own database",
        "fail",
        "no usable address",
        "SYMVANTA_DATABASE_URL",
        with_settings(SYMVANTA_DATABASE_URL="postgresql://u:canary/pw@127.0.0.1:1/x"),
    ),
    Case(
        "a migration is missing",
        "own tables",
        "fail",
        "not up to date",
        "^symvanta migrate",
        at_own(
            "CREATE TABLE was AS SELECT * FROM symvanta_alembic_version;"
            "UPDATE symvanta_alembic_version SET version_num = '0001'",
            "UPDATE symvanta_alembic_version SET version_num = was.version_num FROM was;DROP TABLE was",
        ),
    ),
    Case(
        "no tables",
        "own tables",
        "fail",
        "do not exist yet",
        "^symvanta migrate",
        partial(empty_database, variable="SYMVANTA_DATABASE_URL"),
    ),
    Case(
        "a superuser of our own",
        "own role",
        "warn",
        "superuser: what is append-only does not bind it",
        "docs/production.md",
        superuser("SYMVANTA_DATABASE_URL"),
    ),
    Case(
        "a role that may only read",
        "own role",
        "fail",
        r"may not read and write accepted_snapshots, .* in all\)",
        "own the pipeline's tables",
        partial(another_role, grants="SELECT"),
    ),
    Case(
        "a role that owns nothing",
        "own role",
        "warn",
        "can neither migrate nor prune",
        "OWNER TO other_",
        partial(another_role, grants="SELECT, INSERT, UPDATE"),
    ),
    Case(
        "a pooler",
        "own connection",
        "fail",
        "gives each transaction another server",
        "lead to PostgreSQL itself",
        through_a_pooler,
    ),
    Case(
        "retries that multiply",
        "dagster.yaml",
        "warn",
        "run_retries.retry_on_asset_or_op_failure$",
        "from the project",
        partial(dagster_yaml, old="retry_on_asset_or_op_failure: false", new="retry_on_asset_or_op_failure: true"),
    ),
    Case(
        "another storage",
        "dagster.yaml",
        "warn",
        "in storage.postgres.postgres_url$",
        "from the project",
        partial(
            dagster_yaml,
            old="postgres_url:\n      env: DAGSTER_POSTGRES_URL",
            new=f"postgres_url: postgresql://u:{PASSWORD}@h/d",
        ),
    ),
    Case(
        "no monitoring of runs",
        "dagster.yaml",
        "warn",
        "in run_monitoring.enabled$",
        "from the project",
        partial(dagster_yaml, old="run_monitoring:\n  enabled: true", new="run_monitoring:\n  enabled: false"),
    ),
    Case(
        "a launcher that notices no dead run",
        "dagster.yaml",
        "warn",
        "in run_launcher$",
        "from the project",
        partial(dagster_yaml, old=LAUNCHER, new=""),
    ),
    Case(
        "hourly runs that may take every place",
        "dagster.yaml",
        "warn",
        "in run_queue.tag_concurrency_limits$",
        "from the project",
        partial(dagster_yaml, old="max_concurrent_runs: 4", new="max_concurrent_runs: 3"),
    ),
    Case(
        "no limit of hourly runs",
        "dagster.yaml",
        "warn",
        "in run_queue.tag_concurrency_limits$",
        "from the project",
        partial(dagster_yaml, old="key: dagster/schedule_name", new="key: dagster/another"),
    ),
    Case(
        "an unknown key",
        "dagster.yaml",
        "fail",
        "does not accept it",
        "from the project",
        partial(dagster_yaml, old="telemetry:", new="canary_telemetry:"),
    ),
    Case(
        "no YAML",
        "dagster.yaml",
        "fail",
        "does not accept it",
        "from the project",
        partial(dagster_yaml, old="telemetry:", new="canary: ["),
    ),
    Case("no file", "dagster.yaml", "fail", "there is none in", "DAGSTER_HOME", partial(no_home, stay=False)),
    Case(
        "by the working directory alone",
        "dagster.yaml",
        "warn",
        "DAGSTER_HOME is not set",
        "export DAGSTER_HOME=",
        partial(no_home, stay=True),
    ),
    Case(
        "Dagster's database is down",
        "dagster database",
        "fail",
        "cannot be reached",
        "start it, or correct DAGSTER_POSTGRES_URL",
        partial(refused, variable="DAGSTER_POSTGRES_URL"),
    ),
    Case(
        "no tables of Dagster's",
        "dagster database",
        "fail",
        "do not exist yet",
        "^dagster instance migrate",
        partial(empty_database, variable="DAGSTER_POSTGRES_URL"),
    ),
    Case(
        "tables of an older Dagster",
        "dagster database",
        "fail",
        "are not those of this version",
        "^dagster instance migrate",
        at_dagster(
            "CREATE TABLE was AS SELECT * FROM alembic_version;UPDATE alembic_version SET version_num = 'older'",
            "UPDATE alembic_version SET version_num = was.version_num FROM was;DROP TABLE was",
        ),
    ),
    Case(
        "a role that may not write runs and events",
        "dagster role",
        "fail",
        r"may not read and write event_logs, runs: no run can be begun",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON event_logs, runs TO other_",
        partial(
            another_role,
            variable="DAGSTER_POSTGRES_URL",
            grants="SELECT, INSERT, UPDATE, DELETE",
            but="REVOKE DELETE ON event_logs FROM {role};REVOKE UPDATE ON runs FROM {role}",
        ),
    ),
    Case(
        "a role that may only read Dagster's tables",
        "dagster role",
        "fail",
        r"may not read and write asset_check_executions, .* in all\)",
        "let it own them",
        partial(another_role, variable="DAGSTER_POSTGRES_URL", grants="SELECT"),
    ),
    Case(
        "a role that owns nothing of Dagster's",
        "dagster role",
        "warn",
        "dagster instance migrate will fail",
        "OWNER TO other_",
        partial(another_role, variable="DAGSTER_POSTGRES_URL", grants="SELECT, INSERT, UPDATE, DELETE"),
    ),
    Case(
        "no daemon ever",
        "dagster daemon",
        "fail",
        "never ran",
        "start dagster-daemon",
        at_dagster(
            "CREATE TABLE was AS SELECT * FROM daemon_heartbeats;DELETE FROM daemon_heartbeats",
            "INSERT INTO daemon_heartbeats SELECT * FROM was;DROP TABLE was",
        ),
    ),
    Case(
        "one part of the daemon never began",
        "dagster daemon",
        "fail",
        "no sign of life for over 5 minutes: scheduler$",
        "start dagster-daemon",
        at_dagster(
            "CREATE TABLE was AS SELECT * FROM daemon_heartbeats;"
            "DELETE FROM daemon_heartbeats WHERE daemon_type = 'SCHEDULER'",
            "INSERT INTO daemon_heartbeats SELECT * FROM was WHERE daemon_type = 'SCHEDULER';DROP TABLE was",
        ),
    ),
    Case(
        "a daemon that ended",
        "dagster daemon",
        "fail",
        "no sign of life for over 5 minutes",
        "start dagster-daemon",
        partial(heartbeats, old=True),
    ),
    Case("a daemon with errors", "dagster daemon", "warn", "runs, with errors", "UI", partial(heartbeats, erring=True)),
    Case(
        "the hourly schedule is off",
        "schedules",
        "fail",
        "hourly_user_account_sync off: nothing is pushed",
        "turn hourly_user_account_sync on",
        partial(switched_off, name="hourly_user_account_sync"),
    ),
    Case(
        "a sensor is off",
        "schedules",
        "warn",
        "newly_connected_customers off",
        "turn it on",
        partial(switched_off, name="newly_connected_customers"),
    ),
    Case(
        "a code location that is not loaded",
        "schedules",
        "fail",
        "never saw .*newly_connected_customers",
        "loads the code location",
        at_dagster(
            "CREATE TABLE was AS SELECT * FROM instigators;DELETE FROM instigators",
            "INSERT INTO instigators SELECT * FROM was;DROP TABLE was",
        ),
    ),
    Case(
        "a tick that failed",
        "schedules",
        "warn",
        "the tick of hourly_user_account_sync at .* UTC failed",
        "Automation",
        partial(ticked, status=TickStatus.FAILURE, ago=timedelta(minutes=5)),
    ),
    Case(
        "no tick for hours",
        "schedules",
        "warn",
        "last ticked at",
        "restart dagster-daemon",
        partial(ticked, status=TickStatus.SKIPPED, ago=timedelta(hours=3)),
    ),
    Case(
        "a queue that stands",
        "queue",
        "warn",
        "1 run queued, the oldest for 90 minutes",
        "hangs",
        partial(queued, ago="90 minutes"),
    ),
    Case(
        "a key is missing",
        "keys",
        "fail",
        "SYMVANTA_TOKEN_KEYS lacks: k1",
        "put the missing keys back",
        with_settings(SYMVANTA_TOKEN_KEYS=OTHER_KEY),
    ),
    Case(
        "tokens under an older key",
        "keys",
        "warn",
        "2 of 2 tokens not yet under the first key",
        "^symvanta keys rotate$",
        with_settings(SYMVANTA_TOKEN_KEYS=f"{OTHER_KEY},{KEYS}"),
    ),
    Case(
        "another key under the same id",
        "tokens",
        "fail",
        "cannot be decrypted: acme, bravo",
        "reconnect",
        with_settings(SYMVANTA_TOKEN_KEYS=OTHER_KEY.replace("k2", "k1")),
    ),
    Case(
        "a token that is gone",
        "tokens",
        "fail",
        "without a token: many-1",
        "symvanta connect",
        at_own(MANY.format(1), NO_LONGER_MANY),
    ),
    Case(
        "a token that nobody refreshes",
        "tokens",
        "warn",
        "not refreshed for over 2 days: acme$",
        "symvanta customers",
        at_own(
            "UPDATE tokens SET expires_at = expires_at - interval '3 days' WHERE organization_id = '{acme}'",
            "UPDATE tokens SET expires_at = expires_at + interval '3 days' WHERE organization_id = '{acme}'",
        ),
    ),
    Case(
        "a grant that was narrowed",
        "scopes",
        "warn",
        r"^1 customer did not grant connectors.self:write-resource: acme$",
        "reconnect",
        at_own(
            "UPDATE tokens SET scope = 'connectors.self:read-resource' WHERE organization_id = '{acme}'",
            "UPDATE tokens SET scope = 'connectors.self:write-resource connectors.self:read-resource'"
            " WHERE organization_id = '{acme}'",
        ),
    ),
    Case(
        "a parked customer",
        "customers",
        "warn",
        "^1 new, 1 parked$",
        "symvanta customers",
        at_own(
            "UPDATE connections SET state = 'parked', parked_at = now(), parked_reason = 'canary'"
            " WHERE customer = 'acme'",
            "UPDATE connections SET state = 'connected', parked_at = NULL, parked_reason = NULL"
            " WHERE customer = 'acme'",
        ),
    ),
    Case(
        "more customers than fit",
        "rate budget",
        "warn",
        "^240 customers fit into an hour, you have 241: a cycle takes up to 2 hours$",
        "VANTA_TOKEN_REQUESTS_PER_MINUTE",
        at_own(MANY.format(ALL_BUT_TWO + 1), NO_LONGER_MANY),
    ),
    Case(
        "more customers than PUTs",
        "rate budget",
        "warn",
        "^60 customers fit into an hour, you have 62",
        "VANTA_RESOURCE_REQUESTS_PER_MINUTE",
        one_put_a_minute,
    ),
    Case(
        "a pause",
        "rate budget",
        "warn",
        "you have 2; paused for [0-9]+ s more",
        "wait",
        at_own(
            "INSERT INTO rate_budgets (name, paused_until) VALUES ('resource', now() + interval '1 hour')",
            "DELETE FROM rate_budgets",
        ),
    ),
    Case(
        "Vanta is down",
        "vanta api",
        "fail",
        "does not answer",
        "VANTA_API_URL.*nothing is pushed",
        with_settings(VANTA_API_URL=CLOSED_PORT),
    ),
    Case("Vanta hangs", "vanta api", "fail", r"does not answer \(ReadTimeout\)", "VANTA_API_URL", hanging_vanta),
    Case("Vanta is ill", "vanta api", "warn", "HTTP 503", "wait", partial(vanta_answers, status=503)),
    Case(
        "no certificate",
        "vanta api",
        "fail",
        "no certificate that is trusted",
        "certificates",
        lambda well, patch, folder: with_settings(VANTA_API_URL=well.vanta.url.replace("http", "https"))(
            well, patch, folder
        ),
    ),
    Case(
        "the consent page is down",
        "vanta consent page",
        "fail",
        "does not answer",
        "VANTA_APP_URL.*nobody can connect",
        with_settings(VANTA_APP_URL=CLOSED_PORT),
    ),
    Case(
        "the login is down",
        "sym login",
        "fail",
        "cannot be reached",
        "SYM_OIDC_ISSUER",
        with_settings(SYM_OIDC_ISSUER=CLOSED_PORT),
    ),
    Case("the login answers with a page", "sym login", "fail", "answered|cannot be reached", "SYM_OIDC", login_fault),
    Case(
        "the login names itself differently",
        "sym login",
        "fail",
        "names itself differently",
        "SYM_OIDC_ISSUER",
        lambda well, patch, folder: with_settings(SYM_OIDC_ISSUER=well.login.url + "/")(well, patch, folder),
    ),
    Case(
        "an app that nobody reaches",
        "connect app",
        "warn",
        "is this machine",
        "SYMVANTA_PUBLIC_URL",
        with_settings(SYMVANTA_PUBLIC_URL="http://127.0.0.1:3080"),
    ),
    Case(
        "Vanta's clock is ahead",
        "clock",
        "warn",
        r"Vanta \+(59|60|61) s",
        "NTP",
        partial(vanta_answers, ahead=timedelta(minutes=1)),
    ),
    Case(
        "Vanta's clock is far behind",
        "clock",
        "fail",
        r"far from others: .*Vanta -(599|600|601) s",
        "NTP",
        partial(vanta_answers, ahead=timedelta(minutes=-10)),
    ),
    Case(
        "the clock of Sym's database",
        "clock",
        "warn",
        r"Sym's database \+(59|60|61) s",
        "NTP",
        partial(skewed, where="sym_admin", role="reader", by="1 minute"),
    ),
    Case(
        "the clock of the own database",
        "clock",
        "fail",
        r"own database \+3600 s",
        "NTP",
        partial(skewed, where="own_admin", role="owner", by="1 hour"),
    ),
    Case("a folder that others can read", "data folder", "warn", "open to other users", "chmod 700", open_folder),
    Case("a file in its place", "data folder", "fail", "is no folder", "SYMVANTA_DATA_URL", no_folder),
    Case("little room", "disk", "warn", "^only .* GB free", "make room", patched(machine, "LEAST_FREE_BYTES", 10**18)),
    Case("little of it", "disk", "warn", "^only .* GB free", "make room", patched(machine, "LEAST_FREE_SHARE", 1.01)),
    Case("a full disk", "disk", "fail", "^only .* MB free", "make room", patched(machine, "FULL_BYTES", 10**18)),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.check}: {case.ill}")
def test_finds_it_and_says_what_to_do(
    case: Case, well: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with case.make(well, monkeypatch, tmp_path):
        verdict = look(case.check)[case.check]
    assert (verdict.state, bool(re.search(case.detail, verdict.detail))) == (case.state, True), verdict
    assert re.search(case.do, verdict.do), verdict


def test_every_check_has_a_case() -> None:
    assert {case.check for case in CASES} == set(BY_NAME)
