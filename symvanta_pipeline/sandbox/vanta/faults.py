"""Switches that make the stand-in fail as Vanta, or the network before it, has been seen to.

Belongs here: which fault is due when, whether it fired, and what it makes of a reply. Does not belong here: the normal
answers (``app``).
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, NonNegativeInt, PositiveInt, model_validator
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response

from symvanta_pipeline.sandbox.server import Dropped
from symvanta_pipeline.sandbox.vanta.oauth import READ

Endpoint = Literal["authorize", "token", "suspend", "put", "list"]
BEFORE = frozenset({"status", "html", "redirect", "drop_before", "slow_before", "revoke"})
_ANY: frozenset[str] = frozenset({"authorize", "token", "suspend", "put", "list"})
_API = _ANY - {"authorize"}
_PUT = frozenset({"put"})
_TOKEN = frozenset({"token"})
_SUSPEND = frozenset({"suspend"})
ENDPOINTS: Mapping[str, frozenset[str]] = {
    "status": _ANY,
    "html": _ANY,
    "redirect": _ANY,
    "drop_before": _ANY,
    "slow_before": _ANY,
    "revoke": _ANY,
    "drop_after": _ANY,
    "slow": _ANY,
    "invalid_json": _API,
    "no_verdict": _API,
    "success_false": _PUT,
    "rejected_some": _PUT,
    "results_ok": _PUT,
    "ignored": _PUT,
    "no_access_token": _TOKEN,
    "no_refresh_token": _TOKEN,
    "expires_in": _TOKEN,
    "scope": _TOKEN,
    "named_only": _SUSPEND,
}
CDN_PAGE = (
    "<!DOCTYPE html><html lang=en><title>{code} {phrase}</title><h1>{code} {phrase}</h1><hr><p>cloud front</html>"
)


class Fault(BaseModel):
    """One switch, as POSTed.

    Attributes:
        on: the endpoint that it strikes.
        kind: before anything is done: ``status``, ``html`` (a page of the CDN), ``redirect``, ``drop_before`` (the
            connection closes), ``slow_before``, ``revoke`` (the customer disconnects at Vanta's side, then the request
            is answered as usual). After a request was done with success, and only then: ``drop_after`` (the reply is
            lost), ``slow``, ``invalid_json``, ``no_verdict`` (``{}``), ``success_false`` (nothing applied),
            ``rejected_some`` (the last ``rejected`` records not applied), ``results_ok`` (the other form of success),
            ``ignored`` (success is said and nothing applied), ``no_access_token``, ``no_refresh_token``,
            ``expires_in`` (``value``, or missing), ``scope`` (the access token carries ``scope`` only), ``named_only``
            (a suspension ends the token that it names, and no other of that customer's).
        times: how often it strikes.
        after: how many requests pass first.
        tenant: strikes this ``source_id`` alone.
        status: for ``status``, ``html`` and ``redirect``; 500, 503 and 307 where not given.
        body: for ``status``: a string goes out as text, anything else as JSON.
        headers: added to the canned answer.
        retry_after: seconds; adds the header to the canned answer.
        retry_after_form: the header's form.
        location: for ``redirect``.
        delay: seconds, for ``slow`` and ``slow_before``.
        rejected: for ``rejected_some``.
        value: for ``expires_in``; the key is missing from the reply where not given.
        scope: for ``scope``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    on: Endpoint
    kind: str
    times: PositiveInt = 1
    after: NonNegativeInt = 0
    tenant: str | None = None
    status: int | None = Field(None, ge=200, le=599)
    body: JsonValue = {"error": "injected fault"}
    headers: dict[str, str] = {}
    retry_after: NonNegativeInt | None = None
    retry_after_form: Literal["seconds", "date"] = "seconds"
    location: str = "https://api.example.invalid/"
    delay: Annotated[float, Field(ge=0)] = 0.0
    rejected: PositiveInt = 1
    value: JsonValue = None
    scope: str = READ

    @model_validator(mode="after")
    def _kind_fits_endpoint(self) -> Self:
        if self.kind not in ENDPOINTS:
            raise ValueError(f"kind must be one of {', '.join(ENDPOINTS)}")
        if self.on not in ENDPOINTS[self.kind]:
            raise ValueError(f"{self.kind} cannot strike {self.on}")
        return self

    @property
    def strikes_before(self) -> bool:
        """Whether it strikes before the request is looked at."""
        return self.kind in BEFORE

    def canned(self) -> Response | None:
        """The answer that replaces all work; nothing for kinds that let the work go on."""
        if self.kind == "status":
            return self._plain(self.status or HTTPStatus.INTERNAL_SERVER_ERROR)
        if self.kind == "html":
            return cdn_page(self.status or HTTPStatus.SERVICE_UNAVAILABLE, self._headers())
        if self.kind == "redirect":
            return RedirectResponse(self.location, self.status or 307, self._headers())
        return Dropped() if self.kind == "drop_before" else None

    def rewrite(self, content: dict[str, Any], *, count: int) -> dict[str, Any]:
        """What becomes of a successful reply.

        Args:
            content: the reply's JSON.
            count: of the resources that a PUT carried.
        """
        if self.kind == "expires_in":
            given = {"expires_in": self.value} if "value" in self.model_fields_set else {}
            return _without(content, "expires_in") | given
        rejected = min(self.rejected, count)
        replies: dict[str, dict[str, Any]] = {
            "no_verdict": {},
            "success_false": {"success": False},
            "rejected_some": {"results": {"accepted": count - rejected, "rejected": rejected}},
            "results_ok": {"results": {"accepted": count, "rejected": 0}},
            "no_access_token": _without(content, "access_token"),
            "no_refresh_token": _without(content, "refresh_token"),
        }
        return replies.get(self.kind, content)

    def _plain(self, status: int) -> Response:
        if isinstance(self.body, str):
            return PlainTextResponse(self.body, status, self._headers())
        return JSONResponse(self.body, status, self._headers())

    def _headers(self) -> dict[str, str]:
        if self.retry_after is None:
            return dict(self.headers)
        at = datetime.now(UTC) + timedelta(seconds=self.retry_after)
        form = str(self.retry_after) if self.retry_after_form == "seconds" else format_datetime(at, usegmt=True)
        return {**self.headers, "Retry-After": form}


class ArmedFault:
    """A fault that has been switched on, and how often it fired."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.passed = 0
        self.fired = 0

    def due(self, on: str, tenant: str | None) -> bool:
        """Whether it strikes this request; counts the requests that it lets pass first."""
        if self.fault.on != on or self.fault.tenant not in {None, tenant} or self.fired >= self.fault.times:
            return False
        if self.passed < self.fault.after:
            self.passed += 1
            return False
        return True

    def content(self) -> dict[str, Any]:
        """The fault as it was asked for, and how often it fired."""
        return {**self.fault.model_dump(exclude_unset=True), "fired": self.fired}


class Faults:
    """All faults switched on, oldest first."""

    def __init__(self) -> None:
        self._armed: list[ArmedFault] = []

    def arm(self, fault: Fault) -> None:
        """Switch one on."""
        self._armed.append(ArmedFault(fault))

    def due(self, on: str, tenant: str | None) -> ArmedFault | None:
        """The oldest fault that strikes this request. It has not fired yet: whoever lets it strike counts it."""
        due = [armed for armed in self._armed if armed.due(on, tenant)]
        return due[0] if due else None

    def content(self) -> list[dict[str, Any]]:
        """All of them, spent ones included."""
        return [armed.content() for armed in self._armed]

    def clear(self) -> None:
        """Switch all off."""
        self._armed.clear()


def cdn_page(status: int, headers: Mapping[str, str] | None = None) -> HTMLResponse:
    """An HTML page as the CDN before Vanta answers with."""
    page = CDN_PAGE.format(code=int(status), phrase=_phrase(status))
    return HTMLResponse(page, int(status), headers)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in {s.value for s in HTTPStatus} else "Error"


def _without(content: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in content.items() if k != key}
