"""Every fault of the stand-in fires, is counted, and does what it says."""

import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import requests

from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta
from symvanta_pipeline.sandbox.vanta.faults import ENDPOINTS
from symvanta_pipeline.sandbox.vanta.journal import fingerprint
from symvanta_pipeline.sandbox.vanta.oauth import READ

PATH = "/v1/resources/user_account"
ENDPOINT_OF = {"refresh": "token", "read": "list"}
RESOURCE_ID = VantaConfig().resource_id


class Customer:
    """A connected tenant that calls the API."""

    def __init__(self, vanta: VantaServer) -> None:
        self.vanta = vanta
        self.tenant = str(uuid.uuid4())
        self.tokens = vanta.connect(self.tenant)

    def put(self, *unique_ids: str, timeout: float = 30) -> requests.Response:
        body = {"resourceId": RESOURCE_ID, "resources": [_account(unique_id) for unique_id in unique_ids]}
        return requests.put(f"{self.vanta.url}{PATH}", json=body, headers=self._headers(), timeout=timeout)

    def read(self) -> requests.Response:
        query = {"resourceId": RESOURCE_ID}
        return requests.get(
            f"{self.vanta.url}{PATH}", query, headers=self._headers(), timeout=30, allow_redirects=False
        )

    def refresh(self) -> requests.Response:
        return self.vanta.token(grant_type="refresh_token", refresh_token=self.tokens["refresh_token"])

    def suspend(self) -> requests.Response:
        secret = self.vanta.config.client_secret.get_secret_value()
        body = {"token": self.tokens["access_token"], "client_id": self.vanta.config.client_id, "client_secret": secret}
        return requests.post(f"{self.vanta.url}/v1/oauth/token/suspend", json=body, timeout=30)

    def alive(self) -> list[str]:
        return [a["uniqueId"] for a in self.vanta.accounts(self.tenant) if not a["deletedAt"]]

    def fault(self, on: str, kind: str, **options: Any) -> None:
        self.vanta.fault(on, kind, tenant=self.tenant, **options)

    def fired(self) -> list[int]:
        return [fault["fired"] for fault in self.vanta.faults() if fault["tenant"] == self.tenant]

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens['access_token']}"}


def _account(unique_id: str) -> dict[str, Any]:
    return {
        "displayName": unique_id,
        "uniqueId": unique_id,
        "externalUrl": "https://app.example.com/",
        "fullName": unique_id,
        "accountName": unique_id,
        "email": f"{unique_id}@example.com",
        "permissionLevel": "BASE",
        "createdTimestamp": "2024-01-01T00:00:00Z",
        "status": "ACTIVE",
        "mfaEnabled": False,
        "mfaMethods": [],
        "authMethod": "SSO",
    }


@pytest.fixture(scope="module")
def vanta() -> Iterator[VantaServer]:
    config = VantaConfig(token_requests_per_minute=10_000, resource_requests_per_minute=10_000)
    with start_vanta(config) as running:
        yield running


@pytest.fixture
def customer(vanta: VantaServer) -> Customer:
    return Customer(vanta)


@pytest.mark.parametrize("call", ["put", "read", "refresh", "suspend"])
def test_a_status_on_any_call_and_then_all_is_well(customer: Customer, call: str) -> None:
    customer.fault(ENDPOINT_OF.get(call, call), "status", status=503, body={"error": "busy"})
    failed = getattr(customer, call)()
    assert (failed.status_code, failed.json()) == (503, {"error": "busy"})
    assert customer.fired() == [1]
    assert getattr(customer, call)().status_code == 200
    assert customer.fired() == [1]


def test_a_status_applies_nothing(customer: Customer) -> None:
    customer.fault("put", "status")
    assert customer.put("1").status_code == 500
    assert customer.alive() == []


def test_a_status_with_text_and_headers(customer: Customer) -> None:
    customer.fault("put", "status", status=504, body="upstream", headers={"X-Amz-Cf-Id": "x"})
    response = customer.put()
    assert (response.text, response.headers["X-Amz-Cf-Id"]) == ("upstream", "x")


def test_retry_after_in_both_forms(customer: Customer) -> None:
    customer.fault("put", "status", status=429, retry_after=7)
    customer.fault("put", "status", status=429, retry_after=600, retry_after_form="date")
    assert customer.put().headers["Retry-After"] == "7"
    at = parsedate_to_datetime(customer.put().headers["Retry-After"])
    assert 500 < (at - datetime.now(UTC)).total_seconds() <= 600
    assert customer.fired() == [1, 1]


def test_a_page_of_the_cdn(customer: Customer) -> None:
    customer.fault("token", "html", status=502)
    response = customer.refresh()
    assert response.status_code == 502
    assert response.headers["Content-Type"].startswith("text/html")
    assert "<h1>502 Bad Gateway</h1>" in response.text


def test_a_redirect(customer: Customer) -> None:
    customer.fault("list", "redirect", status=308, location="https://api.eu.example.invalid/")
    response = customer.read()
    assert (response.status_code, response.headers["Location"]) == (308, "https://api.eu.example.invalid/")


@pytest.mark.parametrize(("kind", "alive"), [("drop_before", []), ("drop_after", ["1"])])
def test_a_put_whose_connection_breaks(customer: Customer, kind: str, alive: list[str]) -> None:
    customer.fault("put", kind)
    with pytest.raises(requests.ConnectionError):
        customer.put("1")
    assert customer.alive() == alive
    assert customer.fired() == [1]
    entry = [e for e in customer.vanta.journal("put") if e["tenant"] == customer.tenant][-1]
    assert (entry["status"], entry["dropped"], entry["fault"]) == (None, True, kind)


@pytest.mark.parametrize(("kind", "still_good"), [("drop_before", True), ("drop_after", False)])
def test_a_rotation_whose_reply_is_lost(customer: Customer, kind: str, *, still_good: bool) -> None:
    customer.fault("token", kind)
    with pytest.raises(requests.ConnectionError):
        customer.refresh()
    assert (customer.read().status_code == 200) is still_good
    assert customer.refresh().status_code == 200


def test_slow_applies_before_it_waits_and_slow_before_after(customer: Customer) -> None:
    customer.fault("put", "slow", delay=1)
    with pytest.raises(requests.ReadTimeout):
        customer.put("early", timeout=0.2)
    assert customer.alive() == ["early"]
    customer.fault("put", "slow_before", delay=0.5)
    with pytest.raises(requests.ReadTimeout):
        customer.put("late", timeout=0.1)
    assert customer.put("newer").status_code == 200
    # The late body lands although its sender has gone, and undoes the newer one.
    while customer.alive() != ["late"]:
        time.sleep(0.05)
    assert customer.fired() == [1, 1]


@pytest.mark.parametrize(
    ("kind", "options", "reply", "alive"),
    [
        ("success_false", {}, {"success": False}, ["0"]),
        ("ignored", {}, {"success": True}, ["0"]),
        ("results_ok", {}, {"results": {"accepted": 3, "rejected": 0}}, ["1", "2", "3"]),
        ("no_verdict", {}, {}, ["1", "2", "3"]),
        ("rejected_some", {"rejected": 2}, {"results": {"accepted": 1, "rejected": 2}}, ["1"]),
        ("rejected_some", {"rejected": 9}, {"results": {"accepted": 0, "rejected": 3}}, []),
    ],
)
def test_what_a_put_may_be_told(
    customer: Customer, kind: str, options: dict[str, Any], reply: dict[str, Any], alive: list[str]
) -> None:
    customer.put("0")
    customer.fault("put", kind, **options)
    response = customer.put("1", "2", "3")
    assert (response.status_code, response.json()) == (200, reply)
    assert customer.alive() == alive
    assert customer.fired() == [1]


def test_a_rejected_record_stays_as_it_was(customer: Customer) -> None:
    customer.put("1", "2")
    customer.fault("put", "rejected_some")
    customer.put("1", "2")
    assert customer.alive() == ["1", "2"]


@pytest.mark.parametrize("call", ["put", "read", "refresh", "suspend"])
def test_half_a_reply(customer: Customer, call: str) -> None:
    customer.fault(ENDPOINT_OF.get(call, call), "invalid_json")
    response = getattr(customer, call)()
    assert response.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(response.text)
    assert customer.fired() == [1]


@pytest.mark.parametrize(
    ("kind", "missing"), [("no_access_token", "access_token"), ("no_refresh_token", "refresh_token")]
)
def test_a_token_reply_without_a_token(customer: Customer, kind: str, missing: str) -> None:
    customer.fault("token", kind)
    assert missing not in customer.refresh().json()
    assert customer.fired() == [1]


@pytest.mark.parametrize("value", ["3600", None, -1, 0, {"seconds": 1}])
def test_expires_in_may_be_anything(customer: Customer, value: object) -> None:
    customer.fault("token", "expires_in", value=value)
    assert customer.refresh().json()["expires_in"] == value


def test_expires_in_may_be_missing(customer: Customer) -> None:
    customer.fault("token", "expires_in")
    assert "expires_in" not in customer.refresh().json()


def test_a_suspension_that_ends_the_named_token_alone(customer: Customer) -> None:
    customer.fault("suspend", "named_only")
    assert customer.suspend().status_code == 200
    assert customer.fired() == [1]
    assert customer.vanta.tokens(customer.tenant) == {
        "access": [],
        "refresh": [fingerprint(customer.tokens["refresh_token"])],
    }
    assert customer.put().status_code == 401
    assert customer.refresh().status_code == 200


def test_a_narrowed_scope_is_told_and_enforced(customer: Customer) -> None:
    customer.fault("token", "scope")
    customer.tokens = customer.refresh().json()
    assert customer.tokens["scope"] == READ
    assert customer.put().status_code == 403
    assert customer.read().status_code == 200
    customer.tokens = customer.refresh().json()
    assert customer.put().status_code == 200


@pytest.mark.parametrize(
    ("on", "call", "status"), [("put", "put", 401), ("list", "read", 401), ("token", "refresh", 400)]
)
def test_a_disconnect_at_vantas_side(customer: Customer, on: str, call: str, status: int) -> None:
    customer.fault(on, "revoke")
    assert getattr(customer, call)().status_code == status
    assert customer.fired() == [1]
    assert customer.read().status_code == 401
    assert customer.refresh().json()["error"] == "invalid_grant"


def test_times_after_and_tenant(customer: Customer, vanta: VantaServer) -> None:
    other = Customer(vanta)
    customer.fault("put", "status", status=500, times=2, after=1)
    assert other.put().status_code == 200
    assert [customer.put().status_code for _ in range(4)] == [200, 500, 500, 200]
    assert customer.fired() == [2]


def test_a_fault_of_the_reply_waits_for_a_success(customer: Customer) -> None:
    customer.fault("put", "success_false")
    assert customer.put("1", "1").status_code == 400
    assert customer.fired() == [0]
    assert customer.put("1").json() == {"success": False}
    assert customer.fired() == [1]


def test_the_consent_page_can_fail(customer: Customer) -> None:
    customer.fault("authorize", "html")
    with pytest.raises(requests.HTTPError, match="503"):
        customer.vanta.consent(customer.tenant)
    assert customer.vanta.consent(customer.tenant)


@pytest.mark.parametrize(
    "fault",
    [
        {"on": "put", "kind": "nonsense"},
        {"on": "everything", "kind": "status"},
        {"on": "list", "kind": "success_false"},
        {"on": "put", "kind": "no_access_token"},
        {"on": "put", "kind": "status", "times": 0},
        {"on": "put", "kind": "status", "statsu": 500},
    ],
)
def test_a_fault_that_cannot_strike_is_refused(vanta: VantaServer, fault: dict[str, Any]) -> None:
    response = requests.post(f"{vanta.url}/_sandbox/faults", json=fault, timeout=10)
    assert response.status_code == 400
    assert response.json()["error"]


def test_faults_can_be_switched_off() -> None:
    with start_vanta() as vanta:
        for kind, endpoints in ENDPOINTS.items():
            for on in endpoints:
                vanta.fault(on, kind)
        assert len(vanta.faults()) == sum(map(len, ENDPOINTS.values()))
        vanta.clear_faults()
        assert vanta.faults() == []
        assert vanta.connect("t")
