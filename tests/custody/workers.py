"""Processes that push: one that has imported everything once forks a worker, a real process, for each line asked of it.

Asked by lines of JSON on standard input. ``{"start": ...}`` (see ``Worker``) is answered with the new worker's process
id; ``{"wait": PID}`` with how that worker ended (negative: the signal). Ends when standard input closes.

Belongs here: what such a worker does. Does not belong here: what is expected of it (``test_catalogue``).
"""

import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any
from uuid import UUID

from symvanta_pipeline import sync, token_store
from symvanta_pipeline.defs.resources import Ledger, SymDatabase, Vanta, customer_sync
from symvanta_pipeline.sync import CustomerSync, Reach
from symvanta_pipeline.vanta import session
from tests.support import leaks

LONGEST_LIFE = 100  # seconds; a worker that nobody waits for, because its test was killed, ends by itself
RUN_ID = "5ef1c1d2-0000-4000-8000-000000000001"


def push(built: CustomerSync, slug: str) -> dict[str, Any]:
    """Push for one customer as a run does, and return what became of it."""
    [result] = built.results([slug])
    failure = result.failure
    for place in leaks.exceptions(ERRORS):
        logging.getLogger("tests.custody").debug("%s: %s", place.where, place.content)
    return {
        "outcome": failure.outcome if failure else "accepted",
        "sentence": failure.sentence if failure else "",
        "generation": result.push.recorded.token_generation if result.push else None,
    }


def call(built: CustomerSync, organization: str) -> dict[str, Any]:
    """Make one PUT without the customer's lock, as nothing in the pipeline does, and return what became of it."""
    assert built.destination is not None
    body = json.dumps({"resourceId": built.destination.resource_id, "resources": []}).encode()
    one = built.destination.session(UUID(organization))
    response, token = one.call("PUT", built.destination.path, payload=body, before_send=lambda: None)
    return {"status": response.status_code, "generation": token.generation}


ERRORS: list[BaseException] = []
WORK = {"push": push, "call": call}


def work(request: dict[str, Any]) -> None:
    """Do what is asked, with everything logged into a file, and leave the result in another."""
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    signal.alarm(LONGEST_LIFE)
    session.FIRST_WAIT = session.LAST_WAIT = 0.01
    sync.BUSY_PAUSE = 0.02
    token_store.FIRST_SAVE_WAIT = 0.05
    watch_errors()
    with Path(request["log"]).open("w") as log:
        for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(log.fileno(), descriptor)
        leaks.at_debug(logging.StreamHandler(log))
        try:
            with customer_sync(SymDatabase(), Ledger(), Vanta(), reach=Reach.PUSH, run_id=RUN_ID, tick=None) as built:
                result = WORK[request["work"]](built, request["whose"])
        except BaseException as error:
            result = {"error": type(error).__name__}
            traceback.print_exc(file=log)
            raise
        finally:
            Path(request["result"]).write_text(json.dumps(result))


def watch_errors() -> None:
    """Keep each exception that befalls a customer, since a run shows its sentence alone."""
    judged = CustomerSync._failure_of

    def keep(self: CustomerSync, error: Exception, result: sync.CustomerResult) -> sync.Failure:
        ERRORS.append(error)
        return judged(self, error, result)

    CustomerSync._failure_of = keep  # type: ignore[method-assign] # looked on, not changed


def main() -> None:
    """Serve until standard input closes."""
    for line in sys.stdin:
        request = json.loads(line)
        if pid := request.get("wait"):
            _, status = os.waitpid(pid, 0)
            answer = os.waitstatus_to_exitcode(status)
        elif not (answer := os.fork()):
            try:
                work(request["start"])
            finally:
                os._exit(0)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
