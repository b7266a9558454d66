"""Reading back what Vanta has: both paths, every form that a list may have, and when there is a slot for it."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
import requests

from symvanta_pipeline.accounts.proof import Listed
from symvanta_pipeline.rules import shown_id
from symvanta_pipeline.vanta.client import list_accounts, list_path, put_accounts
from symvanta_pipeline.vanta.errors import ListUnreadable

NEW_PATH = "/v1/resources/user_account"
OLD_PATH = "/v1/resources/user_account/sync_all"
PATHS = [NEW_PATH, OLD_PATH]


def nothing() -> None:
    """Stand where the lock is looked at."""


@pytest.mark.parametrize("path", PATHS)
def test_what_was_put_is_listed(customer: Any, path: str) -> None:
    body, resource = customer.body("a", "b"), customer.vanta.config.resource_id
    put_accounts(customer.session(), path, body, before_send=nothing)
    put_accounts(customer.session(), path, customer.body("a"), before_send=nothing)
    listed = list_accounts(customer.session(), path, resource, before_send=nothing)
    assert set(listed) == {
        Listed(shown_id("a"), "ACTIVE", "BASE", is_deleted=False),
        Listed(shown_id("b"), "ACTIVE", "BASE", is_deleted=True),
    }


def test_an_id_that_may_be_a_person_is_listed_as_its_hash_and_one_of_ours_as_it_is(customer: Any) -> None:
    ours = str(uuid4())
    put_accounts(customer.session(), OLD_PATH, customer.body(ours, "ada@acme.example"), before_send=nothing)
    listed = list_accounts(customer.session(), OLD_PATH, customer.vanta.config.resource_id, before_send=nothing)
    assert {account.unique_id for account in listed} == {ours, shown_id("ada@acme.example")}
    assert "ada" not in repr(listed)
    assert shown_id("ada@acme.example") != shown_id("eve@acme.example")


def test_nobody_was_put_yet(customer: Any) -> None:
    resource = customer.vanta.config.resource_id
    assert list_accounts(customer.session(), OLD_PATH, resource, before_send=nothing) == []


@pytest.mark.parametrize(("path", "listed_at"), [(NEW_PATH, NEW_PATH), (OLD_PATH, f"{NEW_PATH}/list_all")])
def test_the_list_is_the_puts_sibling_or_itself(path: str, listed_at: str) -> None:
    assert list_path(path) == listed_at


class Answer(requests.Response):
    """A 200 with this content."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.status_code = 200
        self._content = content


class Session:
    """Answers every call alike; the forms below are Vanta's to choose, and the stand-in knows one of them."""

    def __init__(self, content: str) -> None:
        self._content = content

    def refresh_if_due(self) -> None:
        pass

    def call(self, *_: object, **__: object) -> tuple[requests.Response, None]:
        return Answer(self._content.encode()), None


ONE = '{"uniqueId": "a", "status": "ACTIVE", "permissionLevel": "BASE", "deletedAt": null}'


@pytest.mark.parametrize(
    "content",
    [
        f"[{ONE}]",
        f'{{"resources": [{ONE}]}}',
        f'{{"data": [{ONE}]}}',
        f'{{"results": {{"data": [{ONE}], "pageInfo": {{"hasNextPage": false}}}}}}',
        f'{{"results": [{ONE}]}}',
    ],
)
def test_every_likely_form_is_read(content: str) -> None:
    listed = list_accounts(Session(content), OLD_PATH, "r", before_send=nothing)  # type: ignore[arg-type] # see there
    assert listed == [Listed(shown_id("a"), "ACTIVE", "BASE", is_deleted=False)]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "<html>",
        "null",
        "{}",
        '"text"',
        '{"resources": null}',
        '{"resources": {"a": 1}}',
        '{"resources": [1]}',
        '{"resources": [{"uniqueId": "a"}]}',
        '{"resources": [{"uniqueId": 1, "status": "ACTIVE", "permissionLevel": "BASE"}]}',
        f'{{"results": {{"data": [{ONE}], "pageInfo": {{"hasNextPage": true}}}}}}',
    ],
)
def test_what_is_no_whole_list_is_never_taken_for_an_empty_one(content: str) -> None:
    """On a first push an empty list means "go ahead": a list that cannot be read must not."""
    with pytest.raises(ListUnreadable):
        list_accounts(Session(content), OLD_PATH, "r", before_send=nothing)  # type: ignore[arg-type] # as above


def test_an_outage_is_a_list_that_cannot_be_had(customer: Any) -> None:
    customer.fault("list", "status", status=503, times=9)
    with pytest.raises(ListUnreadable, match=r"could not be had: .* \(503\)"):
        list_accounts(customer.session(), OLD_PATH, customer.vanta.config.resource_id, before_send=nothing)
    assert customer.fired() == [4]


class TestSlots:
    def test_a_look_before_a_first_push_has_its_slot_beforehand(self, customer: Any) -> None:
        session = customer.session()
        before = customer.budgets.resource.spare()
        session.prepare(calls=2)
        assert customer.budgets.resource.spare() == before - 2
        list_accounts(session, OLD_PATH, customer.vanta.config.resource_id, before_send=nothing)
        put_accounts(session, OLD_PATH, customer.body("a"), before_send=nothing)
        assert customer.budgets.resource.spare() >= before - 2

    @pytest.mark.parametrize(("taken", "may"), [(0, True), (4, True), (5, False), (10, False)])
    def test_the_pushes_keep_half_of_the_budget(
        self, customer: Any, tight_budgets: Callable[[int], Any], taken: int, may: bool
    ) -> None:
        """A read-back that made a push wait would trade proof for being on time."""
        customer.budgets = tight_budgets(10)
        for _ in range(taken):
            customer.budgets.resource.take(max_wait=0)
        assert customer.budgets.resource.spare() == 10 - taken
        assert customer.session().may_read_back() is may
        assert customer.budgets.resource.spare() == 10 - taken - may

    def test_none_is_spare_in_a_pause(self, customer: Any, tight_budgets: Callable[[int], Any]) -> None:
        customer.budgets = tight_budgets(10)
        customer.budgets.resource.take(max_wait=0)
        customer.budgets.resource.pause(60)
        assert customer.budgets.resource.spare() == 0
        assert customer.session().may_read_back() is False

    def test_no_token_is_refreshed_for_a_read_back(self, customer: Any, tight_budgets: Callable[[int], Any]) -> None:
        customer.budgets = tight_budgets(10)
        customer.expire(seconds=5)
        assert customer.session().may_read_back() is False
