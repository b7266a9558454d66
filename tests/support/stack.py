"""A whole pipeline that runs: databases, a stand-in for Vanta, code server, webserver and daemon, all of them real.

Belongs here: starting it once for the tests that need it, and asking it as Dagster's UI does. Does not belong here: any
expectation.
"""

import base64
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import psutil
import requests
from dagster._core.instance.ref import InstanceRef
from dagster._core.scheduler.instigation import InstigatorState, ScheduleInstigatorData
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES, DagsterRun, RunsFilter

from symvanta_pipeline.ledger import connections, database
from symvanta_pipeline.ledger.vault import KeyRing
from symvanta_pipeline.sandbox.dagster_processes import REPOSITORY, DagsterProcess, Webserver
from symvanta_pipeline.sandbox.dagster_stack import DagsterStack
from symvanta_pipeline.sandbox.demo_customers import DEMO_CUSTOMERS, DemoCustomer
from symvanta_pipeline.sandbox.postgres import EmbeddedPostgres
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta
from symvanta_pipeline.token_store import token_of
from symvanta_pipeline.vanta.oauth import TokenReply

CHECKOUT = Path(__file__).parents[2]
SYMVANTA = Path(sys.executable).with_name("symvanta")
PATIENCE = 120.0  # seconds; generous, since nothing here is about speed
POLL = 0.25
KEYS = "k1:" + base64.urlsafe_b64encode(bytes(range(32))).decode()
REQUESTS_PER_MINUTE = 1000
Found = TypeVar("Found")
BY_SLUG = {customer.slug: customer for customer in DEMO_CUSTOMERS}
# In the order of their partitions. The held one stands between two others.
CONNECTED = ("solo-studio", "paper-crane", "brightpath", "harborline", "lumen-labs", "tessera", "northfreight")
HELD = "brightpath"
LATER = "oakridge-dental"  # is not connected to begin with
ASSETS = ("sym/users", "vanta/user_accounts", "vanta/user_account_sync")
SYNC = ASSETS[-1]
SCHEDULE = "hourly_user_account_sync"
SCHEDULE_SELECTOR = {**REPOSITORY, "scheduleName": SCHEDULE}

INSTIGATORS = """
query Instigators($repository: RepositorySelector!) {
  repositoryOrError(repositorySelector: $repository) {
    ... on Repository {
      schedules { name scheduleState { status } }
      sensors { name sensorState { status } }
    }
  }
}"""
SCHEDULE_STATE = """
query State($schedule: ScheduleSelector!) {
  scheduleOrError(scheduleSelector: $schedule) { ... on Schedule { scheduleState { id status } } }
}"""
START_SCHEDULE = """
mutation Start($schedule: ScheduleSelector!) {
  startSchedule(scheduleSelector: $schedule) { ... on ScheduleStateResult { scheduleState { status } } }
}"""
STOP_SCHEDULE = """
mutation Stop($id: String!) {
  stopRunningSchedule(id: $id) { ... on ScheduleStateResult { scheduleState { status } } }
}"""
LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } }
}"""
PARTITIONS = """
query Partitions($asset: AssetKeyInput!) {
  assetNodeOrError(assetKey: $asset) {
    ... on AssetNode {
      partitionStats { numMaterialized numFailed numPartitions }
      assetPartitionStatuses {
        ... on DefaultPartitionStatuses { materializedPartitions failedPartitions unmaterializedPartitions }
      }
    }
  }
}"""


def until(look: Callable[[], Found | None], what: str) -> Found:
    """Look until something is found, and return it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"never saw {what}"
        time.sleep(POLL)


@dataclass(frozen=True)
class Stack:
    """The running parts, and a view of what they did.

    Attributes:
        home: DAGSTER_HOME.
        env: every setting of the pipeline.
        instance: Dagster's own view of the same storage.
        first_seen: status of schedule and sensor before anybody touched them, by name.
    """

    home: Path
    env: Mapping[str, str]
    vanta: VantaServer
    dagster: DagsterStack
    webserver: Webserver
    instance: dg.DagsterInstance
    first_seen: Mapping[str, str]

    def connect(self, slug: str) -> DemoCustomer:
        """Take a customer through Vanta's consent, store its token and register its partition."""
        customer = consent(self.vanta, self.env["SYMVANTA_DATABASE_URL"], slug)
        self.webserver.add_partition("customers", slug)
        return customer

    def connect_from_a_terminal(self, slug: str) -> DemoCustomer:
        """Connect a customer with the command that a person would use, and this process for a browser."""
        command = [str(SYMVANTA), "connect", slug, "--no-browser", "--port", "0"]
        with subprocess.Popen(command, env={**os.environ, **self.env}, stdout=subprocess.PIPE, text=True) as connecting:
            assert connecting.stdout is not None
            url = connecting.stdout.readline().strip()
            requests.get(f"{url}&auto=1", timeout=60).raise_for_status()
        assert connecting.returncode == 0
        return BY_SLUG[slug]

    def puts(self, *, since: int = 0) -> list[dict[str, Any]]:
        """List the journal's PUTs with a higher number, each with its customer's slug."""
        slugs = {str(customer.id): customer.slug for customer in DEMO_CUSTOMERS}
        return [
            {**entry, "slug": slugs[entry["tenant"]]} for entry in self.vanta.journal("put") if entry["seq"] > since
        ]

    def latest_request(self) -> int:
        """Return the journal's number of the latest request to the stand-in."""
        return max((int(entry["seq"]) for entry in self.vanta.journal()), default=0)

    def launch(self, *, tags: Mapping[str, str], **selection: object) -> str:
        """Queue a run as the UI does, and return its id."""
        selector = {**REPOSITORY, **selection}
        metadata = {"tags": [{"key": key, "value": value} for key, value in tags.items()]}
        params = {"mode": "default", "executionMetadata": metadata, "runConfigData": "{}", "selector": selector}
        launched = self.webserver.query(LAUNCH, params=params)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def runs(self, tag: str, value: str) -> list[DagsterRun]:
        """List the runs with this tag, oldest first."""
        return list(self.instance.get_runs(RunsFilter(tags={tag: value}), ascending=True))

    def materialized_by(self, run_id: str, asset: str) -> set[str]:
        """List the partitions of an asset that a run materialized."""
        records = self.instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
        events = [record.event_log_entry.dagster_event for record in records]
        return {str(e.partition) for e in events if e and e.asset_key == dg.AssetKey(asset.split("/"))}

    def checked_by(self, run_id: str, check: str) -> dict[str | None, bool]:
        """Tell by partition whether a check passed in a run."""
        records = self.instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
        events = [record.event_log_entry.dagster_event for record in records]
        evaluations = [event.asset_check_evaluation_data for event in events if event]
        return {e.partition: e.passed for e in evaluations if e.check_name == check}

    def ended(self, run_id: str) -> DagsterRun:
        """Wait until a run has ended, and return it."""

        def look() -> DagsterRun | None:
            run = self.instance.get_run_by_id(run_id)
            return run if run and run.is_finished else None

        return until(look, f"the end of run {run_id}")

    def settle(self) -> None:
        """Wait until no run is queued or under way."""
        under_way = RunsFilter(statuses=list(NOT_FINISHED_STATUSES))
        until(lambda: not self.instance.get_runs(under_way), "the end of all runs")

    def worker(self, run_id: str) -> psutil.Process:
        """Find the process that works on a run, by what it says of itself."""
        started = until(
            lambda: self.instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT).records,
            f"a worker of run {run_id}",
        )
        texts = [record.event_log_entry.message for record in started]
        pids = [int(text.split("(pid: ")[1].split(")")[0]) for text in texts if "Executing steps in process" in text]
        return psutil.Process(pids[0])

    def ticks(self) -> list[datetime]:
        """List the times that the schedule has ticked for, oldest first."""
        state = self._schedule_state()
        if state is None:
            return []
        ticks = self.instance.get_ticks(state.instigator_origin_id, state.selector_id)
        return sorted(datetime.fromtimestamp(tick.timestamp, UTC) for tick in ticks)

    def start_schedule_in_the_past(self, *, hours: int) -> None:
        """Turn the schedule on as if that had been hours ago, while no daemon ran since."""
        self.stop_schedule()  # what runs by default has no stored state to begin with
        started = self.webserver.query(START_SCHEDULE, schedule=SCHEDULE_SELECTOR)["startSchedule"]
        assert started["scheduleState"]["status"] == "RUNNING"
        state = self._schedule_state()
        assert state is not None
        since = (datetime.now(UTC) - timedelta(hours=hours)).timestamp()
        self.instance.update_instigator_state(state.with_data(ScheduleInstigatorData("0 * * * *", since)))

    def stop_schedule(self) -> None:
        """Turn the schedule off: a full hour during the tests would bring runs of its own."""
        found = self.webserver.query(SCHEDULE_STATE, schedule=SCHEDULE_SELECTOR)["scheduleOrError"]["scheduleState"]
        stopped = self.webserver.query(STOP_SCHEDULE, id=found["id"])["stopRunningSchedule"]
        assert stopped["scheduleState"]["status"] == "STOPPED"

    def restarted(self, daemon: DagsterProcess) -> DagsterProcess:
        """End the daemon and start another one; return it once it has looked at the schedule."""
        daemon.stop()
        before = self._looked_at()
        another = self.dagster.start_daemon()
        until(lambda: self._looked_at() > before, "the new daemon at work")
        return another

    def partitions(self, asset: str) -> dict[str, Any]:
        """Return an asset's partition statuses as the UI's partition page asks for them."""
        found: dict[str, Any] = self.webserver.query(PARTITIONS, asset=asset_key(asset))["assetNodeOrError"]
        return found

    def _schedule_state(self) -> InstigatorState | None:
        states = {state.instigator_name: state for state in self.instance.all_instigator_state()}
        return states.get(SCHEDULE)

    def _looked_at(self) -> float:
        """Return the time of the sensor's latest tick: whoever made it has had the schedule in hand as well."""
        states = [s for s in self.instance.all_instigator_state() if s.instigator_name != SCHEDULE]
        ticks = [self.instance.get_ticks(s.instigator_origin_id, s.selector_id, limit=1) for s in states]
        return max((tick.timestamp for found in ticks for tick in found), default=0.0)


def asset_key(asset: str) -> dict[str, Sequence[str]]:
    return {"path": asset.split("/")}


def consent(vanta: VantaServer, ledger_url: str, slug: str) -> DemoCustomer:
    """Take a customer through Vanta's consent, and store its token."""
    customer = BY_SLUG[slug]
    vanta.name_tenant(str(customer.id), customer.name)
    reply = vanta.connect(str(customer.id))
    token = token_of(
        TokenReply(reply["access_token"], reply["refresh_token"], float(reply["expires_in"]), reply["scope"])
    )
    with database.connect(ledger_url) as ledger:
        connections.connect_customer(ledger, KeyRing(KEYS), customer.id, slug, token)
    return customer


def _nothing(*_: object) -> None:
    pass


@contextmanager
def running_stack(
    folder: Path,
    urls: Mapping[str, str],
    *,
    connect: Collection[str] = (),
    before: Callable[[VantaServer, Mapping[str, str], dg.DagsterInstance], None] = _nothing,
) -> Iterator[Stack]:
    """Start everything but the daemon, on databases of one's own.

    Args:
        folder: for everything else.
        urls: of the databases, by variable.
        connect: demo customers that are connected once it runs.
        before: is called before Dagster's processes start, with the stand-in, every setting, and the instance.
    """
    home = folder / "dagster"
    home.mkdir(parents=True)
    shutil.copyfile(CHECKOUT / "dagster.yaml", home / "dagster.yaml")
    limits = {"token_requests_per_minute": REQUESTS_PER_MINUTE, "resource_requests_per_minute": REQUESTS_PER_MINUTE}
    with ExitStack() as running:
        vanta = running.enter_context(start_vanta(VantaConfig.model_validate(limits), log=folder / "vanta.log"))
        env = {**urls, **settings_for(vanta), "SYMVANTA_DATA_URL": str(folder / "data"), "DAGSTER_HOME": str(home)}
        storage = {"storage": {"postgres": {"postgres_url": urls["DAGSTER_POSTGRES_URL"]}}}
        reference = InstanceRef.from_dir(str(home), overrides=storage)
        instance = running.enter_context(dg.DagsterInstance.from_ref(reference))
        before(vanta, env, instance)
        dagster = DagsterStack(home, running, env=env)
        dagster.start_code_server()
        webserver = dagster.start_webserver()
        dagster.wait_until(webserver.is_up, "its webserver answers")
        found = webserver.query(INSTIGATORS, repository=REPOSITORY)["repositoryOrError"]
        first_seen = {
            **{schedule["name"]: schedule["scheduleState"]["status"] for schedule in found["schedules"]},
            **{sensor["name"]: sensor["sensorState"]["status"] for sensor in found["sensors"]},
        }
        stack = Stack(home, env, vanta, dagster, webserver, instance, first_seen)
        for slug in connect:
            stack.connect(slug)
        yield stack


def settings_for(vanta: VantaServer) -> dict[str, str]:
    """Return every setting that has to do with Vanta or is needed beside the databases."""
    return {
        "VANTA_CLIENT_ID": vanta.config.client_id,
        "VANTA_CLIENT_SECRET": vanta.config.client_secret.get_secret_value(),
        "VANTA_RESOURCE_ID": vanta.config.resource_id,
        "VANTA_API_URL": vanta.url,
        "VANTA_APP_URL": vanta.url,
        "VANTA_TOKEN_REQUESTS_PER_MINUTE": str(vanta.config.token_requests_per_minute),
        "VANTA_RESOURCE_REQUESTS_PER_MINUTE": str(vanta.config.resource_requests_per_minute),
        "SYMVANTA_TOKEN_KEYS": KEYS,
    }


@contextmanager
def own_databases(server: EmbeddedPostgres, templates: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Clone a database for each variable from its template; yields the URLs by variable."""
    names = {variable: f"{template}_{uuid.uuid4().hex[:12]}" for variable, template in templates.items()}
    for variable, name in names.items():
        server.clone(templates[variable], name)
    try:
        yield {variable: _url(server, variable, name) for variable, name in names.items()}
    finally:
        for name in names.values():
            server.drop(name)


def _url(server: EmbeddedPostgres, variable: str, database_name: str) -> str:
    url = server.url(database_name)
    return url.replace("postgresql:", "postgresql+psycopg2:") if variable == "DAGSTER_POSTGRES_URL" else url
