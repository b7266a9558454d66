"""The stand-in keeps to its own OpenAPI document, checked by schemathesis with generated requests, good and bad."""

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import positive_data_acceptance, unsupported_method

from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.control import VantaServer, start_vanta

QUICK = settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
OPERATIONS = [
    ("POST", "/oauth/token"),
    ("POST", "/v1/oauth/token/suspend"),
    ("PUT", "/v1/resources/user_account"),
    ("PUT", "/v1/resources/user_account/sync_all"),
    ("GET", "/v1/resources/user_account"),
    ("GET", "/v1/resources/user_account/list_all"),
]
# A generated code or token is never one that was issued, and generated accounts may repeat a uniqueId.
EXCLUDED = [positive_data_acceptance, unsupported_method]


@pytest.fixture(scope="module")
def vanta() -> Iterator[VantaServer]:
    config = VantaConfig(token_requests_per_minute=1_000_000, resource_requests_per_minute=1_000_000)
    with start_vanta(config) as running:
        yield running


def _document(vanta: VantaServer) -> dict[str, Any]:
    """The stand-in's document, with the client's credentials put in, so that generated requests get past them."""
    document: dict[str, Any] = requests.get(f"{vanta.url}/openapi.json", timeout=10).json()
    secret = vanta.config.client_secret.get_secret_value()
    for path in ("/oauth/token", "/v1/oauth/token/suspend"):
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        for shape in schema.get("oneOf", [schema]):
            shape["properties"] |= {"client_id": {"const": vanta.config.client_id}, "client_secret": {"const": secret}}
    return document


def _check(vanta: VantaServer, document: dict[str, Any], method: str, path: str, mode: GenerationMode) -> set[int]:
    """Send generated requests, good or bad; the statuses that came back."""
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=vanta.url)
    headers = {"Authorization": f"Bearer {vanta.connect('contract')['access_token']}"}
    statuses: set[int] = set()

    @QUICK
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def keeps_to_the_document(case: Case[Any]) -> None:
        statuses.add(case.call_and_validate(headers=headers, excluded_checks=EXCLUDED).status_code)

    keeps_to_the_document()
    return statuses


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_a_documented_one(vanta: VantaServer, method: str, path: str) -> None:
    reached = 400 if method == "POST" else 200
    assert reached in _check(vanta, _document(vanta), method, path, GenerationMode.POSITIVE)


@pytest.mark.parametrize(("method", "path"), OPERATIONS[:4])
def test_bad_bodies_are_refused(vanta: VantaServer, method: str, path: str) -> None:
    document = _document(vanta)
    # Without this, some requests are bad only for their lack of a token, which this test then supplies.
    document["paths"][path][method.lower()].pop("security", None)
    assert 200 not in _check(vanta, document, method, path, GenerationMode.NEGATIVE)


def test_an_answer_that_is_not_documented_is_caught(vanta: VantaServer) -> None:
    document = _document(vanta)
    del document["paths"][OPERATIONS[2][1]]["put"]["responses"]["200"]
    with pytest.raises(FailureGroup):
        _check(vanta, document, *OPERATIONS[2], GenerationMode.POSITIVE)
