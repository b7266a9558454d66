"""Every way in which Vanta can refuse or fail, as permanent or transient: one table, one module.

Belongs here: the exceptions, the table of status codes, and the reading of a reply's error. Does not belong
here: what is done about it (``session`` retries, ``sync`` parks and reports).

No exception carries a token, a reply's text or personal data: Vanta's error strings quote values, so that only
the index and the field name are taken out of them.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from symvanta_pipeline.accounts.schema import FIELDS

DEFAULT_PAUSE = 60.0  # seconds; Retry-After is undocumented at Vanta, its windows are a minute long
LONGEST_PAUSE = 3600.0  # seconds; a Retry-After beyond an hour would silence the pipeline


class VantaError(Exception):
    """Something between us and Vanta went wrong; the text is safe to show."""


class Transient(VantaError):
    """Trying again later may succeed with nothing changed."""


class Unavailable(Transient):
    """Vanta did not answer, or answered that it cannot now (5xx, time-out, broken connection, a CDN's page)."""


class RateLimited(Transient):
    """429: the whole budget has to pause for ``pause`` seconds."""

    def __init__(self, pause: float) -> None:
        self.pause = pause
        super().__init__(f"Vanta asked for a pause of {pause:.0f} s (429)")


class Permanent(VantaError):
    """Trying again changes nothing until somebody does something."""


class AccessTokenRefused(Permanent):
    """401 on a resource call: the access token is expired or revoked."""


class GrantRefused(Permanent):
    """The refresh token or the authorization code is not accepted: somebody has to give consent again.

    Attributes:
        token_generation: of the stored token that was refused; None for an authorization code.
    """

    token_generation: int | None = None


class ScopeMissing(Permanent):
    """The grant stands, and no longer allows all that we need; nothing is sent with it.

    Attributes:
        scopes: those that are missing.
    """

    def __init__(self, scopes: Sequence[str]) -> None:
        self.scopes = tuple(scopes)
        super().__init__(
            f"Vanta no longer grants {' '.join(self.scopes)}: nothing is sent until the customer is connected again"
        )


class ApplicationRefused(Permanent):
    """Vanta does not accept our own client id and secret: no customer's fault, and true for all of them."""


class BodyRefused(Permanent):
    """400: one record refused the whole body.

    Attributes:
        index: position of the record in the body, where Vanta named it.
        field: the record's field, where Vanta named one.
    """

    def __init__(self, index: int | None = None, field: str | None = None) -> None:
        self.index, self.field = index, field
        where = "" if index is None else f" because of record {index}"
        what = "" if field is None else f", field {field}"
        super().__init__(f"Vanta refused the body{where}{what} (400)")


class NotAccepted(Permanent):
    """A 200 whose verdict is no, partly no, or missing."""


class ListUnreadable(Permanent):
    """Vanta's list of accounts could not be had, or came in a form that nobody has seen, or not whole."""


class Refused(Permanent):
    """Any other refusal; the text says which and what to look at."""


class WrongOrganization(Permanent):
    """A body of one organization met the session of another. Nothing was sent."""


# [documented] 401, 429; [seen] 400, 403, 404, 503, 504; the rest follow HTTP.
PERMANENT: Mapping[int, str] = {
    403: "wrong scope or application type: compare the application's settings at Vanta with docs/vanta.md",
    404: "no such resource for this application: compare VANTA_RESOURCE_ID and VANTA_USER_ACCOUNT_PATH",
    405: "method not allowed: compare VANTA_USER_ACCOUNT_PATH",
    409: "conflict",
    410: "gone: compare VANTA_USER_ACCOUNT_PATH",
    413: "the body is too large for Vanta",
    415: "the content type is not accepted",
    422: "the request cannot be processed",
}
TRANSIENT: frozenset[int] = frozenset({408, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524})

_ELEMENT = re.compile(r"resources(?:\[|\.|/)(\d{1,7})(?!\d)\]?(?:[./]([A-Za-z]{1,40})\b)?")
_INDEX = re.compile(r"\b(?:index|element|resource|record)\W{1,3}(\d{1,7})\b", re.IGNORECASE)
# 401 and 400 follow RFC 6749, section 5.2. An error code in a 5xx is no verdict on a grant.
_TOKEN_REFUSALS = (requests.codes.bad_request, requests.codes.unauthorized, requests.codes.forbidden)


def check_resource_reply(response: requests.Response) -> requests.Response:
    """Return a 200 of a resource endpoint; raise what any other status means.

    Raises:
        AccessTokenRefused, BodyRefused, RateLimited, Unavailable, Refused.
    """
    status = response.status_code
    if status == requests.codes.ok:
        return response
    if status == requests.codes.unauthorized:
        raise AccessTokenRefused("Vanta refused the customer's access token (401)")
    if status == requests.codes.bad_request:
        raise BodyRefused(*_element(response))
    raise _by_status(response)


def check_token_reply(response: requests.Response) -> requests.Response:
    """Return the reply of the token endpoint if it holds an access token; raise what anything else means.

    Raises:
        GrantRefused: 4xx ``invalid_grant``. ApplicationRefused: 4xx ``invalid_client``.
        Unavailable: also for a 200 without an access token: whether the grant was rotated is not known.
        RateLimited, Refused.
    """
    status, content = response.status_code, json_object(response)
    if status == requests.codes.ok:
        token = content.get("access_token")
        if isinstance(token, str) and token:
            return response
        raise Unavailable("Vanta's token endpoint answered 200 without an access token")
    error = content.get("error") if status in _TOKEN_REFUSALS else None
    if error == "invalid_grant":
        raise GrantRefused("Vanta refused the grant (invalid_grant): consent has to be given again")
    if error == "invalid_client":
        raise ApplicationRefused(
            "Vanta refused our own application (invalid_client): check VANTA_CLIENT_ID and VANTA_CLIENT_SECRET"
        )
    if status in (requests.codes.bad_request, requests.codes.unauthorized):
        raise Refused(f"Vanta's token endpoint refused the request ({status}): see docs/vanta.md")
    raise _by_status(response)


def check_verdict(response: requests.Response) -> None:
    """Demand that a 200 of the PUT says that everything was accepted, in either of Vanta's two forms.

    Raises:
        NotAccepted: for ``success: false``, any rejected record, or neither form.
    """
    content = json_object(response)
    results = content.get("results")
    rejected = results.get("rejected") if isinstance(results, dict) else None
    if rejected:
        raise NotAccepted("Vanta answered 200 and rejected some records: nothing counts as accepted")
    if content.get("success") is True or ("success" not in content and type(rejected) is int):  # False is no count
        return
    raise NotAccepted("Vanta answered 200 without saying that it accepted the body")


def json_object(response: requests.Response) -> dict[str, Any]:
    """Return the reply's JSON object; an empty one for anything else, such as a CDN's HTML page."""
    try:
        content = response.json()
    except (ValueError, RecursionError):  # also for numbers and depths that Python will not read
        return {}
    return content if isinstance(content, dict) else {}


def retry_after(response: requests.Response, now: datetime | None = None) -> float:
    """Return the seconds that ``Retry-After`` asks for, in either of HTTP's two forms; else a minute."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        seconds = float(value)
    else:
        try:
            seconds = (parsedate_to_datetime(value) - (now or datetime.now(UTC))).total_seconds()
        except (TypeError, ValueError, OverflowError):
            seconds = DEFAULT_PAUSE
    return min(max(seconds, 1.0), LONGEST_PAUSE)


def _by_status(response: requests.Response) -> VantaError:
    status = response.status_code
    if status == requests.codes.too_many_requests:
        return RateLimited(retry_after(response))
    if 300 <= status < 400:  # noqa: PLR2004 - HTTP's class of redirects
        return Refused(f"Vanta answered with a redirect ({status}), which is never followed with a token")
    if status in TRANSIENT:
        return Unavailable(f"Vanta cannot answer now ({status})")
    return Refused(f"Vanta refused the request ({status}): {PERMANENT.get(status, 'unexpected status')}")


def _element(response: requests.Response) -> tuple[int | None, str | None]:
    text = json_object(response).get("error")
    text = text if isinstance(text, str) else ""
    if found := _ELEMENT.search(text):
        return int(found[1]), found[2] if found[2] in FIELDS else None
    if found := _INDEX.search(text):
        return int(found[1]), None
    return None, None
