"""The one resource that is sent to Vanta: a customer's user accounts, all of them at once.

Belongs here: the PUT and the reading of its verdict. Does not belong here: how the body is made (``accounts``),
tokens, slots and retries (``session``).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode

from symvanta_pipeline.accounts.body import Body
from symvanta_pipeline.accounts.proof import Listed
from symvanta_pipeline.rules import shown_id
from symvanta_pipeline.vanta.errors import (
    BodyRefused,
    ListUnreadable,
    Refused,
    Transient,
    WrongOrganization,
    check_verdict,
)
from symvanta_pipeline.vanta.session import ATTEMPTS, CustomerSession, Delivery


@dataclass(frozen=True)
class Acceptance:
    """Vanta said that it accepted a body.

    Attributes:
        seconds: from the first byte sent to the verdict, retries and waits for slots included.
        token_generation: of the token that the accepted call was made with.
    """

    seconds: float
    token_generation: int


def list_accounts(
    session: CustomerSession, path: str, resource_id: str, *, before_send: Callable[[], None], attempts: int = ATTEMPTS
) -> list[Listed]:
    """Ask for every account that Vanta has of one customer, soft-deleted ones included.

    The list's own form is documented nowhere: a bare list, ``resources``, ``data`` and Vanta's usual ``results.data``
    are read, and anything else is refused rather than taken for an empty list.

    Args:
        session: of the customer.
        path: ``VANTA_USER_ACCOUNT_PATH``, the PUT's; see `list_path`.
        resource_id: ``VANTA_RESOURCE_ID``, which the query must carry (documented).
        before_send: as in `put_accounts`.
        attempts: how often what may pass is tried in all; once, where it must not delay anybody.

    Raises:
        ListUnreadable: it could not be had, or the answer is no list of accounts, or only a part of one.
        VantaError: what a push would meet as well. budget.WouldWait: as in `put_accounts`.
    """
    session.refresh_if_due()  # by itself, since a refresh that fails says nothing of the list
    query = urlencode({"resourceId": resource_id})
    # No body: a GET that carries one gets an HTML page from the CDN (seen).
    try:
        response, _ = session.call("GET", f"{list_path(path)}?{query}", before_send=before_send, attempts=attempts)
    except (Transient, BodyRefused, Refused) as error:
        raise ListUnreadable(f"Vanta's list of accounts could not be had: {error}") from None
    try:
        content = response.json()
    except (ValueError, RecursionError):
        unreadable = ListUnreadable("Vanta's list of accounts is no JSON: see docs/vanta.md")
    else:
        return [_listed(record) for record in _records(content)]
    raise unreadable


def list_path(path: str) -> str:
    """Return where the accounts are listed that are PUT to a path: its sibling, or itself (documented, both)."""
    return f"{path.removesuffix('/sync_all')}/list_all" if path.endswith("/sync_all") else path


def put_accounts(
    session: CustomerSession,
    path: str,
    body: Body,
    *,
    before_send: Callable[[], None],
    delivery: Delivery | None = None,
) -> Acceptance:
    """Replace everything that Vanta knows of one customer's accounts; safe to repeat with the same bytes.

    Args:
        session: of the customer that the body describes.
        path: ``VANTA_USER_ACCOUNT_PATH``.
        body: all accounts of the customer; Vanta soft-deletes whoever is not in it (documented).
        before_send: runs immediately before each attempt; raising keeps it from being made.
        delivery: told how far the body got, whatever is raised. A 200 that does not say yes counts as possibly applied.

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
    response, token = session.call("PUT", path, payload=body.payload, before_send=before_send, delivery=delivery)
    check_verdict(response)
    return Acceptance(time.monotonic() - started, token.generation)


def _records(content: object) -> list[object]:
    results = content.get("results", content) if isinstance(content, dict) else content
    if isinstance(results, dict):
        page = results.get("pageInfo")
        if isinstance(page, dict) and page.get("hasNextPage"):
            raise ListUnreadable("Vanta's list of accounts came in pages, which nobody has seen: see docs/vanta.md")
        results = results.get("resources", results.get("data"))
    if isinstance(results, list):
        return results
    raise ListUnreadable("Vanta's list of accounts came in an unknown form: see docs/vanta.md")


def _listed(record: object) -> Listed:
    values = record if isinstance(record, dict) else {}
    texts = [values.get(name) for name in ("uniqueId", "status", "permissionLevel")]
    if not all(isinstance(text, str) and text for text in texts):
        raise ListUnreadable("Vanta's list of accounts holds a record without id, status or level: see docs/vanta.md")
    unique_id, status, level = map(str, texts)
    # What Sym sends are UUIDs; anything else was chosen by somebody else, and is compared and told of as a hash.
    return Listed(shown_id(unique_id), status, level, is_deleted=bool(values.get("deletedAt")))
