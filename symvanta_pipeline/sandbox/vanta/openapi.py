"""The OpenAPI document of the stand-in's API, made from the very shapes that it checks.

Belongs here: paths, statuses and replies. Does not belong here: the shapes of the bodies (``schema``).
"""

from typing import Any

from pydantic import TypeAdapter

from symvanta_pipeline.sandbox.vanta.config import VantaConfig
from symvanta_pipeline.sandbox.vanta.schema import SUSPEND, TOKEN_REQUEST, USER_ACCOUNTS

Schema = dict[str, Any]
_TEXT: Schema = {"type": "string"}
_TIME: Schema = {"type": "string", "format": "date-time"}


def document(config: VantaConfig) -> Schema:
    """Describe the token, suspend, PUT and GET endpoints.

    The one resource id of the application stands in it as a constant, so that generated requests reach the accounts.
    """
    put, listing = _put(config), _list(config)
    base = "/v1/resources/user_account"
    return {
        "openapi": "3.1.0",
        "info": {"title": "Stand-in for Vanta's Build Integrations API", "version": "0.0.1"},
        "paths": {
            "/oauth/token": {"post": _token()},
            "/v1/oauth/token/suspend": {"post": _suspend()},
            base: {"put": put, "get": listing},
            f"{base}/sync_all": {"put": put},
            f"{base}/list_all": {"get": listing},
        },
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
    }


def _token() -> Schema:
    reply = _object(
        access_token=_TEXT,
        expires_in={"type": "integer"},
        token_type={"const": "Bearer"},
        scope=_TEXT,
        optional={"refresh_token": _TEXT},
    )
    errors = {400: _oauth_error(), 401: _oauth_error(), 429: _error()}
    return {"requestBody": _body(_shape(TOKEN_REQUEST)), "responses": _responses(reply, errors)}


def _suspend() -> Schema:
    errors = {400: _oauth_error(), 401: _oauth_error(), 429: _error()}
    return {"requestBody": _body(_shape(SUSPEND)), "responses": _responses(_success(), errors)}


def _put(config: VantaConfig) -> Schema:
    accounts = _shape(USER_ACCOUNTS)
    accounts["properties"]["resourceId"] = {"const": config.resource_id}
    errors = dict.fromkeys((400, 401, 403, 404, 429), _error())
    return {
        "security": [{"bearer": []}],
        "requestBody": _body(accounts),
        "responses": _responses(_success(), errors),
    }


def _list(config: VantaConfig) -> Schema:
    record = _account()
    record["properties"] |= {"createdAt": _TIME, "updatedAt": _TIME, "deletedAt": {"anyOf": [_TIME, {"type": "null"}]}}
    record["required"] = [*record["required"], "createdAt", "updatedAt", "deletedAt"]
    reply = _object(resources={"type": "array", "items": record})
    errors = dict.fromkeys((400, 401, 403, 404, 429), _error())
    wanted = {"name": "resourceId", "in": "query", "required": True, "schema": {"const": config.resource_id}}
    return {"security": [{"bearer": []}], "parameters": [wanted], "responses": _responses(reply, errors)}


def _account() -> Schema:
    account: Schema = _shape(USER_ACCOUNTS)["properties"]["resources"]["items"]
    return account


def _shape(adapter: TypeAdapter[Any]) -> Schema:
    """A shape's JSON Schema with its references resolved in place; none of them is recursive."""
    schema = adapter.json_schema()
    definitions = schema.pop("$defs", {})
    schema.pop("discriminator", None)
    inlined: Schema = _inline(schema, definitions)
    return inlined


def _inline(node: Any, definitions: Schema) -> Any:
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inline(definitions[node["$ref"].rpartition("/")[2]], definitions)
    return {key: _inline(value, definitions) for key, value in node.items()}


def _body(schema: Schema) -> Schema:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _responses(reply: Schema, errors: dict[int, Schema]) -> Schema:
    replies = {200: reply, **errors}
    return {
        str(status): {"description": f"status {status}", "content": {"application/json": {"schema": schema}}}
        for status, schema in replies.items()
    }


def _object(*, optional: Schema | None = None, **required: Schema) -> Schema:
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _success() -> Schema:
    return _object(success={"const": True})


def _error() -> Schema:
    return _object(error=_TEXT)


def _oauth_error() -> Schema:
    return _object(error=_TEXT, error_description=_TEXT)
