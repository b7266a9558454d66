"""A process that pushes for one customer under the customer's lock: `LEDGER_URL VANTA_URL ORGANIZATION`.

Says `busy` when it first finds the lock taken, and in the end which generation of the token it pushed with.
"""

import base64
import json
import sys
import time
from datetime import timedelta
from uuid import UUID

from symvanta_pipeline.ledger.database import connect
from symvanta_pipeline.ledger.live_connection import LiveConnection
from symvanta_pipeline.ledger.locks import LockBusy, customer_lock
from symvanta_pipeline.ledger.vault import KeyRing
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.token_store import VaultTokenStore
from symvanta_pipeline.vanta.budget import RateBudgets
from symvanta_pipeline.vanta.oauth import Application
from symvanta_pipeline.vanta.session import CustomerSession

PATH = "/v1/resources/user_account/sync_all"


def main(ledger_url: str, vanta_url: str, organization_id: UUID) -> None:
    config = VantaConfig()
    application = Application(config.client_id, config.client_secret.get_secret_value(), vanta_url, vanta_url)
    keyring = KeyRing("k1:" + base64.urlsafe_b64encode(bytes(range(32))).decode())
    payload = json.dumps({"resourceId": config.resource_id, "resources": []}).encode()
    budgets = RateBudgets(
        lambda: connect(ledger_url), token_per_minute=1000, resource_per_minute=1000, window=timedelta(seconds=0.1)
    )
    with LiveConnection(ledger_url) as ledger, budgets:
        session = CustomerSession(application, VaultTokenStore(ledger, keyring, organization_id), budgets)
        busy = False
        while True:
            try:
                with customer_lock(ledger_url, organization_id) as lock:
                    _, token = session.call("PUT", PATH, payload=payload, before_send=lock.check)
                    break
            except LockBusy:
                if not busy:
                    print("busy", flush=True)  # noqa: T201 - its parent reads this
                busy = True
                time.sleep(0.01)
    print(token.generation)  # noqa: T201 - its parent reads this


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], UUID(sys.argv[3]))
