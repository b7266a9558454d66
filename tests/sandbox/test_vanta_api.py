"""The stand-in's resource endpoints over HTTP: paths, state of the world, refusals, budgets, journal, pages."""

import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from symvanta_pipeline.sandbox.vanta.budget import SlidingWindow
from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta
from symvanta_pipeline.sandbox.vanta.oauth import READ, WRITE

NEW = "/v1/resources/user_account"
PATHS = [(NEW, NEW), (f"{NEW}/sync_all", f"{NEW}/list_all")]
RESOURCE_ID = VantaConfig().resource_id


@pytest.fixture(scope="module")
def vanta() -> Iterator[VantaServer]:
    config = VantaConfig(token_requests_per_minute=10_000, resource_requests_per_minute=10_000)
    with start_vanta(config) as running:
        yield running


@pytest.fixture
def tenant() -> str:
    return str(uuid.uuid4())


def _account(unique_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "displayName": f"User {unique_id}",
        "uniqueId": unique_id,
        "externalUrl": f"https://app.example.com/users/{unique_id}",
        "fullName": f"User {unique_id}",
        "accountName": f"{unique_id}@example.com",
        "email": f"{unique_id}@example.com",
        "permissionLevel": "BASE",
        "createdTimestamp": "2024-01-01T00:00:00Z",
        "status": "ACTIVE",
        "mfaEnabled": False,
        "mfaMethods": [],
        "authMethod": "SSO",
        **changes,
    }


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _put(vanta: VantaServer, token: str, *accounts: dict[str, Any], path: str = NEW) -> requests.Response:
    body = {"resourceId": RESOURCE_ID, "resources": accounts}
    return requests.put(f"{vanta.url}{path}", json=body, headers=_bearer(token), timeout=30)


def _list(
    vanta: VantaServer, token: str, *, path: str = NEW, resource_id: str | None = RESOURCE_ID
) -> requests.Response:
    return requests.get(f"{vanta.url}{path}", {"resourceId": resource_id}, headers=_bearer(token), timeout=30)


@pytest.mark.parametrize(("put_path", "list_path"), PATHS)
def test_both_pairs_of_paths_lead_to_one_state(vanta: VantaServer, tenant: str, put_path: str, list_path: str) -> None:
    token = vanta.connect(tenant)["access_token"]
    response = _put(vanta, token, _account("1"), path=put_path)
    assert (response.status_code, response.json()) == (200, {"success": True})
    (record,) = _list(vanta, token, path=list_path).json()["resources"]
    assert record.pop("createdAt") == record.pop("updatedAt")
    assert record.pop("deletedAt") is None
    assert record == _account("1")
    assert vanta.accounts(tenant)[0]["uniqueId"] == "1"


def test_each_put_is_the_state_of_the_world(vanta: VantaServer, tenant: str) -> None:
    token = vanta.connect(tenant)["access_token"]
    _put(vanta, token, _account("1"), _account("2"), _account("3"))
    first = {r["uniqueId"]: r for r in vanta.accounts(tenant)}
    _put(vanta, token, _account("1"), _account("2", status="DEACTIVATED"))
    second = {r["uniqueId"]: r for r in vanta.accounts(tenant)}
    assert second["1"] == first["1"]
    assert second["2"]["updatedAt"] > second["2"]["createdAt"]
    assert [r["uniqueId"] for r in second.values() if r["deletedAt"]] == ["3"]
    _put(vanta, token, _account("3"))
    third = {r["uniqueId"]: r for r in vanta.accounts(tenant)}
    assert third["3"]["deletedAt"] is None
    assert third["3"]["createdAt"] == first["3"]["createdAt"]
    assert third["1"]["deletedAt"]
    deleted_at = third["1"]["deletedAt"]
    _put(vanta, token)
    last = {r["uniqueId"]: r for r in vanta.accounts(tenant)}
    assert all(r["deletedAt"] for r in last.values())
    assert last["1"]["deletedAt"] == deleted_at


def test_a_refused_body_changes_nothing(vanta: VantaServer, tenant: str) -> None:
    token = vanta.connect(tenant)["access_token"]
    _put(vanta, token, _account("1"))
    before = vanta.accounts(tenant)
    response = _put(vanta, token, _account("2"), _account("3", email="x"))
    assert response.status_code == 400
    assert response.json()["error"].startswith("resources[1].email: ")
    assert vanta.accounts(tenant) == before


def test_the_tenant_comes_from_the_token(vanta: VantaServer, tenant: str) -> None:
    other = str(uuid.uuid4())
    _put(vanta, vanta.connect(tenant)["access_token"], _account("1"))
    token = vanta.connect(other)["access_token"]
    assert _list(vanta, token).json() == {"resources": []}
    _put(vanta, token)
    assert vanta.accounts(tenant)[0]["deletedAt"] is None


def test_accounts_outlive_a_reconnection(vanta: VantaServer, tenant: str) -> None:
    _put(vanta, vanta.connect(tenant)["access_token"], _account("1"))
    assert len(_list(vanta, vanta.connect(tenant)["access_token"]).json()["resources"]) == 1


def test_a_large_body_is_taken_whole(vanta: VantaServer, tenant: str) -> None:
    token = vanta.connect(tenant)["access_token"]
    assert _put(vanta, token, *(_account(str(n)) for n in range(2500))).json() == {"success": True}
    assert len(_list(vanta, token).json()["resources"]) == 2500


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer vat_guess"}, {"Authorization": "Basic eDp5"}])
def test_without_a_good_token_there_is_nothing(vanta: VantaServer, headers: dict[str, str]) -> None:
    body = {"resourceId": RESOURCE_ID, "resources": []}
    assert requests.put(f"{vanta.url}{NEW}", json=body, headers=headers, timeout=10).status_code == 401
    query = {"resourceId": RESOURCE_ID}
    assert requests.get(f"{vanta.url}{NEW}", query, headers=headers, timeout=10).status_code == 401


def test_an_access_token_expires() -> None:
    with start_vanta(VantaConfig(expires_in=1, resource_requests_per_minute=1_000_000)) as vanta:
        token = vanta.connect("t")["access_token"]
        while (status := _list(vanta, token).status_code) == 200:
            time.sleep(0.05)
        assert status == 401


@pytest.mark.parametrize(("scope", "put_status", "list_status"), [(READ, 403, 200), (WRITE, 200, 403)])
def test_a_scope_allows_its_own_calls_alone(
    vanta: VantaServer, tenant: str, scope: str, put_status: int, list_status: int
) -> None:
    reply = vanta.exchange(tenant, vanta.consent(tenant, scope=scope)).json()
    assert reply["scope"] == scope
    assert _put(vanta, reply["access_token"]).status_code == put_status
    assert _list(vanta, reply["access_token"]).status_code == list_status


def test_an_unknown_resource_id_is_404(vanta: VantaServer, tenant: str) -> None:
    token = vanta.connect(tenant)["access_token"]
    body = {"resourceId": "other", "resources": []}
    assert requests.put(f"{vanta.url}{NEW}", json=body, headers=_bearer(token), timeout=10).status_code == 404
    assert _list(vanta, token, resource_id="other").status_code == 404
    assert _list(vanta, token, resource_id=None).status_code == 400


def test_a_put_must_say_that_it_is_json(vanta: VantaServer, tenant: str) -> None:
    token = vanta.connect(tenant)["access_token"]
    body = json.dumps({"resourceId": RESOURCE_ID, "resources": []})
    assert requests.put(f"{vanta.url}{NEW}", body, headers=_bearer(token), timeout=10).status_code == 400


def test_a_get_with_a_body_never_reaches_the_api(vanta: VantaServer, tenant: str) -> None:
    token = vanta.connect(tenant)["access_token"]
    response = requests.get(
        f"{vanta.url}{NEW}", {"resourceId": RESOURCE_ID}, json={}, headers=_bearer(token), timeout=10
    )
    assert response.status_code == 403
    assert response.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("told", [True, False])
def test_beyond_the_budget_is_429(told: bool) -> None:
    config = VantaConfig(token_requests_per_minute=3, resource_requests_per_minute=4, retry_after=told)
    with start_vanta(config) as vanta:
        tokens = [vanta.connect(tenant)["access_token"] for tenant in ("a", "b")]
        credentials = {"client_id": config.client_id, "client_secret": "vcs_sandbox"}
        suspend = {"token": tokens[1], **credentials}
        assert requests.post(f"{vanta.url}/v1/oauth/token/suspend", json=suspend, timeout=10).status_code == 200
        refused = vanta.token(grant_type="refresh_token", refresh_token="x")
        assert refused.status_code == 429
        assert ("Retry-After" in refused.headers) is told
        statuses = [_put(vanta, tokens[0]).status_code, *(_list(vanta, tokens[0]).status_code for _ in range(3))]
        assert statuses == [200] * 4
        assert _put(vanta, tokens[0], _account("1")).status_code == 429
        assert vanta.accounts("a") == []
        assert vanta.journal()[-1]["status"] == 429


def test_the_window_slides() -> None:
    now = 0.0
    window = SlidingWindow(2, now=lambda: now)
    assert window.take() == 0.0
    now = 50.0
    assert window.take() == 0.0
    now = 59.0
    assert window.take() == 1.0
    now = 60.0
    assert window.take() == 0.0
    assert window.take() == 50.0


def test_the_journal_tells_tokens_apart_and_gives_none_away(vanta: VantaServer, tenant: str) -> None:
    tokens = vanta.connect(tenant)
    _put(vanta, tokens["access_token"], _account("1"))
    newer = vanta.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"]).json()
    _list(vanta, tokens["access_token"])
    entries = [entry for entry in vanta.journal() if entry["tenant"] == tenant]
    assert [(e["endpoint"], e["status"], e["grant_type"]) for e in entries] == [
        ("authorize", 302, None),
        ("token", 200, "authorization_code"),
        ("put", 200, None),
        ("token", 200, "refresh_token"),
        ("list", 401, None),
    ]
    put = entries[2]
    raw = vanta.body(put["seq"])
    assert json.loads(raw) == {"resourceId": RESOURCE_ID, "resources": [_account("1")]}
    assert (put["sha256"], put["count"]) == (hashlib.sha256(raw).hexdigest(), 1)
    assert put["token_fingerprint"] == hashlib.sha256(tokens["access_token"].encode()).hexdigest()
    everything = json.dumps(vanta.journal())
    secrets = [*tokens.values(), *newer.values(), "vcs_sandbox"]
    assert not [s for s in secrets if isinstance(s, str) and s.startswith("v") and s in everything]


def test_the_journal_can_be_cleared_and_survives_odd_requests() -> None:
    with start_vanta() as vanta:
        odd = b'{"grant_type": "\\ud800", "token": "\\ud800", "code": ["x"]}'
        json_type = {"Content-Type": "application/json"}
        assert requests.post(f"{vanta.url}/oauth/token", odd, headers=json_type, timeout=10).status_code == 400
        deep = b"[" * 100_000
        assert requests.post(f"{vanta.url}/oauth/token", deep, headers=json_type, timeout=10).status_code == 400
        assert [entry["status"] for entry in vanta.journal("token")] == [400, 400]
        vanta.clear_journal()
        assert vanta.journal() == []
        assert requests.get(f"{vanta.url}/_sandbox/journal/1/body", timeout=10).status_code == 404


def test_the_access_page_shows_and_filters(vanta: VantaServer) -> None:
    tenant = f"org/{uuid.uuid4()}"
    token = vanta.connect(tenant)["access_token"]
    _put(vanta, token, _account("gone"))
    ada = _account("ada", displayName="<b>Ada</b>", mfaMethods=["OTP"], lastLoginTimestamp="2024-05-06T07:08:09Z")
    _put(vanta, token, ada, _account("bob", status="DEACTIVATED"))
    vanta.name_tenant(tenant, "Acme")
    page = f"{vanta.url}/access/{tenant.replace('/', '%2F')}"
    index = requests.get(f"{vanta.url}/", timeout=10).text
    assert "Acme" in index
    assert requests.get(page, timeout=10).text.count('<th scope="row">') == 3
    active = requests.get(page, {"status": "Active"}, timeout=10).text
    assert "1 of 3 accounts" in active
    assert "&lt;b&gt;Ada&lt;/b&gt;" in active
    assert "2024-05-06 07:08" in active
    assert "OTP" in active
    departed = requests.get(page, {"status": "Deactivated"}, timeout=10).text
    assert "gone@example.com" in departed
    assert "bob@example.com" in departed
    assert "ada@example.com" not in departed
    assert requests.get(f"{vanta.url}/access/nobody", timeout=10).status_code == 404
    assert requests.get(f"{vanta.url}/static/sandbox.css", timeout=10).status_code == 200
