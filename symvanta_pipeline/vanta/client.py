"""The one resource that is sent to Vanta: a customer's user accounts, all of them at once.

Belongs here: the PUT and the reading of its verdict. Does not belong here: how the body is made (``accounts``),
tokens, slots and retries (``session``).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from symvanta_pipeline.accounts.body import Body
from symvanta_pipeline.vanta.errors import WrongOrganization, check_verdict
from symvanta_pipeline.vanta.session import CustomerSession


@dataclass(frozen=True)
class Acceptance:
    """Vanta said that it accepted a body.

    Attributes:
        seconds: from the first byte sent to the verdict, retries and waits for slots included.
        token_generation: of the token that the accepted call was made with.
    """

    seconds: float
    token_generation: int


def put_accounts(session: CustomerSession, path: str, body: Body, *, before_send: Callable[[], None]) -> Acceptance:
    """Replace everything that Vanta knows of one customer's accounts; safe to repeat with the same bytes.

    Args:
        session: of the customer that the body describes.
        path: ``VANTA_USER_ACCOUNT_PATH``.
        body: all accounts of the customer; Vanta soft-deletes whoever is not in it (documented).
        before_send: runs immediately before each attempt; raising keeps it from being made.

    Raises:
        WrongOrganization: the body is another organization's; nothing was sent.
        VantaError: Vanta did not accept the body.
        budget.WouldWait: the next slot is too far away to hold the customer's lock for it.
    """
    if body.organization_id != session.organization_id:
        raise WrongOrganization(
            f"the body of organization {body.organization_id} met the session of {session.organization_id}: not sent"
        )
    started = time.monotonic()
    response, token = session.call("PUT", path, payload=body.payload, before_send=before_send)
    check_verdict(response)
    return Acceptance(time.monotonic() - started, token.generation)
