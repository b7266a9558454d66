"""The PUT of one customer's accounts, through the real stand-in."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from symvanta_pipeline.vanta.client import Acceptance, put_accounts
from symvanta_pipeline.vanta.errors import BodyRefused, NotAccepted, Refused, VantaError

PATHS = ["/v1/resources/user_account/sync_all", "/v1/resources/user_account"]


def put(customer: Any, *unique_ids: str, path: str = PATHS[0]) -> Acceptance:
    return put_accounts(customer.session(), path, customer.body(*unique_ids), before_send=lambda: None)


def alive(customer: Any) -> list[str]:
    return [a["uniqueId"] for a in customer.vanta.accounts(customer.tenant) if not a["deletedAt"]]


@pytest.mark.parametrize("path", PATHS)
def test_both_paths_replace_everything(customer: Any, path: str) -> None:
    assert put(customer, "1", "2", path=path).token_generation == 1
    assert alive(customer) == ["1", "2"]
    put(customer, "2", "3", path=path)
    assert alive(customer) == ["2", "3"]
    assert [entry["path"] for entry in customer.puts()] == [path, path]


def test_the_bytes_arrive_as_they_are(customer: Any) -> None:
    body = customer.body("1", "2")
    accepted = put_accounts(customer.session(), PATHS[0], body, before_send=lambda: None)
    [entry] = customer.puts()
    assert customer.vanta.body(entry["seq"]) == body.payload
    assert (entry["sha256"], entry["count"]) == (body.sha256, 2)
    assert accepted.seconds > 0


def test_the_other_form_of_success(customer: Any) -> None:
    customer.fault("put", "results_ok")
    put(customer, "1")
    assert customer.fired() == [1]
    assert alive(customer) == ["1"]


@pytest.mark.parametrize("kind", ["success_false", "no_verdict", "rejected_some", "invalid_json"])
def test_what_is_not_said_to_be_accepted_is_not_and_is_not_tried_again(customer: Any, kind: str) -> None:
    customer.fault("put", kind, times=99)
    with pytest.raises(NotAccepted):
        put(customer, "1", "2")
    assert customer.fired() == [1]
    assert customer.calls() == ["put"]


def test_a_page_with_status_200_is_no_verdict(customer: Any) -> None:
    customer.fault("put", "html", status=200)
    with pytest.raises(NotAccepted):
        put(customer)
    assert customer.fired() == [1]


def spoilt(content: dict[str, Any]) -> None:
    content["resources"][2]["email"] = "canary@"


def doubled(content: dict[str, Any]) -> None:
    content["resources"][1]["uniqueId"] = "1"


def unknown(content: dict[str, Any]) -> None:
    content["resources"][1]["canary"] = "canary"


@pytest.mark.parametrize(
    ("spoil", "index", "field"), [(spoilt, 2, "email"), (doubled, 1, "uniqueId"), (unknown, 1, None)]
)
def test_a_record_that_is_refused_is_named_by_index_and_field(
    customer: Any, spoil: Callable[[dict[str, Any]], None], index: int, field: str | None
) -> None:
    body = customer.body("1", "2", "3")
    content = json.loads(body.payload)
    spoil(content)
    with pytest.raises(BodyRefused) as caught:
        put_accounts(
            customer.session(), PATHS[0], replace(body, payload=json.dumps(content).encode()), before_send=lambda: None
        )
    assert (caught.value.index, caught.value.field) == (index, field)
    assert "canary" not in str(caught.value)
    assert customer.calls() == ["put"]
    assert alive(customer) == []


def test_a_resource_that_is_not_ours(customer: Any) -> None:
    body = customer.body()
    other = replace(body, payload=body.payload.replace(body.resource_id.encode(), b"another"))
    with pytest.raises(Refused, match="VANTA_RESOURCE_ID"):
        put_accounts(customer.session(), PATHS[0], other, before_send=lambda: None)


def test_a_path_that_is_none(customer: Any) -> None:
    with pytest.raises(VantaError, match="VANTA_USER_ACCOUNT_PATH"):
        put_accounts(customer.session(), "/v1/resources/users", customer.body(), before_send=lambda: None)


def test_the_body_shows_in_no_repr(customer: Any) -> None:
    assert "ada@example.com" not in f"{customer.body()!r} {put(customer)!r}"
