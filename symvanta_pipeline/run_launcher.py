"""Where runs are started, in dagster.yaml: by the code server, as Dagster does, and noticed when they die with it.

Belongs here: what Dagster's own launcher lacks. Does not belong here: launching.

A run whose process dies is reported by its code server. Dagster's default launcher has nobody who notices when that one
is gone as well, after a power cut, a reboot or `kill -9`: such a run would count as running for ever, keep its place
among those that may run at once, and never be repeated.
"""

import socket

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

TIMEOUT = 10  # seconds


class WatchedRunLauncher(DefaultRunLauncher):
    """Dagster's default launcher, which also tells whether a run that counts as started is still there."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether `check_run_worker_health` can be asked; Dagster's own monitoring does."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Ask the code server that started the run whether it still has it; only a clear no counts."""
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call] # Dagster's own
        if client is None or _has(client, run.run_id):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "the code server that started it does not have it any more")


def _has(client: DagsterGrpcClient, run_id: str) -> bool:
    """Tell whether a code server has a run, or might have it."""
    if client.socket and _is_abandoned(client.socket):
        return False  # a process's own socket: whoever comes after it has another one
    try:
        answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run_id), timeout=TIMEOUT)
    except DagsterUserCodeUnreachableError:
        return True  # busy, restarting, or the network: whoever answers next tells
    return deserialize_value(answer, CanCancelExecutionResult).can_cancel


def _is_abandoned(path: str) -> bool:
    """Tell whether nobody listens on a socket of this machine."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(TIMEOUT)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return True
        except OSError:
            return False
    return False
