"""Switches that make the stand-in fail, or lie, as a provider or somebody in its place might.

Belongs here: which faults are on and how often each fired. Does not belong here: what a fault does to an answer
(``app``, ``keys``).
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

Endpoint = Literal["discovery", "jwks", "authorize", "token", "logout"]
_ALL: tuple[Endpoint, ...] = ("discovery", "jwks", "authorize", "token", "logout")
ID_TOKEN = (
    "wrong_nonce",
    "no_nonce",
    "wrong_issuer",
    "wrong_audience",
    "expired",
    "alg_none",
    "foreign_key",
    "hs256",
    "no_subject",
    "subject_not_text",
    "malformed",
)
INSTEAD = ("status", "html", "drop", "redirect")
ENDPOINTS: Mapping[str, tuple[Endpoint, ...]] = {
    **dict.fromkeys((*INSTEAD, "slow"), _ALL),
    "huge": ("discovery", "jwks", "token"),
    "other_issuer": ("discovery",),
    "unsafe_endpoint": ("discovery",),
    "other_state": ("authorize",),
    "server_error": ("authorize",),
    "invalid_grant": ("token",),
    "no_id_token": ("token",),
    **dict.fromkeys(ID_TOKEN, ("token",)),
}


class Fault(BaseModel):
    """One switch, as POSTed.

    Attributes:
        kind: in place of any work: ``status`` (``status``, as JSON), ``html`` (200 and a page), ``drop`` (the
            connection closes), ``redirect`` (307 to the same address, which then answers). Before it: ``slow``
            (``delay``). Of a successful answer: ``huge`` (``size`` bytes more, still valid JSON), ``other_issuer`` and
            ``unsafe_endpoint`` (of the discovery document, which names one endpoint on another host, without https),
            ``other_state`` and ``server_error`` (of the redirect to the client), ``no_id_token``. ``invalid_grant``
            refuses a code that was good, and spends it. The rest spoils the ID token: ``wrong_nonce``, ``no_nonce``,
            ``wrong_issuer``, ``wrong_audience``, ``expired`` (an hour ago), ``alg_none``, ``foreign_key`` (signed with
            another key, under the published one's id), ``hs256`` (with the client secret as key), ``no_subject``,
            ``subject_not_text`` (a number), ``malformed`` (no JWT).
        on: the endpoint that it strikes; may be left out where a kind can strike one only.
        times: how often it strikes.
        status: for ``status``.
        delay: seconds, for ``slow``.
        size: bytes, for ``huge``.
        named: the document's key, for ``unsafe_endpoint``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    on: Endpoint | None = None
    times: PositiveInt = 1
    status: int = Field(500, ge=400, le=599)
    delay: Annotated[float, Field(ge=0)] = 0.0
    size: PositiveInt = 32 * 1024 * 1024
    named: str = "token_endpoint"

    @model_validator(mode="after")
    def _kind_fits_endpoint(self) -> Self:
        if self.kind not in ENDPOINTS:
            raise ValueError(f"kind must be one of {', '.join(ENDPOINTS)}")
        if self.on is None and len(ENDPOINTS[self.kind]) > 1:
            raise ValueError(f"on must be one of {', '.join(ENDPOINTS[self.kind])}")
        if self.on not in {None, *ENDPOINTS[self.kind]}:
            raise ValueError(f"{self.kind} cannot strike {self.on}")
        return self

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint that it strikes."""
        return self.on or ENDPOINTS[self.kind][0]


class _Armed:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.fired = 0


class Faults:
    """All faults switched on, oldest first."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []

    def arm(self, fault: Fault) -> None:
        """Switch one on."""
        self._armed.append(_Armed(fault))

    def fire(self, endpoint: str, kinds: Collection[str]) -> Fault | None:
        """Take the oldest fault of these kinds that strikes this endpoint, and count it as fired."""
        for armed in self._armed:
            fault = armed.fault
            if fault.kind in kinds and fault.endpoint == endpoint and armed.fired < fault.times:
                armed.fired += 1
                return fault
        return None

    def content(self) -> list[dict[str, Any]]:
        """All of them, spent ones included, with the number of times that each fired."""
        return [
            {**armed.fault.model_dump(exclude_unset=True), "on": armed.fault.endpoint, "fired": armed.fired}
            for armed in self._armed
        ]

    def clear(self) -> None:
        """Switch all off."""
        self._armed.clear()
