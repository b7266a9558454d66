import json
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from symvanta_pipeline.vanta.errors import (
    DEFAULT_PAUSE,
    LONGEST_PAUSE,
    AccessTokenRefused,
    ApplicationRefused,
    BodyRefused,
    GrantRefused,
    NotAccepted,
    Permanent,
    RateLimited,
    Refused,
    Transient,
    Unavailable,
    VantaError,
    check_resource_reply,
    check_token_reply,
    check_verdict,
    json_object,
    retry_after,
)

CANARY = "canary.person@example.com"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def reply(status: int = 200, content: Any = None, **headers: str) -> requests.Response:
    """A reply: bytes as they are, anything else as JSON."""
    response = requests.Response()
    response.status_code = status
    response._content = content if isinstance(content, bytes) else json.dumps(content).encode()
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


STATUSES: dict[int, type[VantaError]] = {
    201: Refused,
    202: Refused,
    204: Refused,
    301: Refused,
    302: Refused,
    303: Refused,
    304: Refused,
    307: Refused,
    308: Refused,
    400: BodyRefused,
    401: AccessTokenRefused,
    402: Refused,
    403: Refused,
    404: Refused,
    405: Refused,
    406: Refused,
    408: Unavailable,
    409: Refused,
    410: Refused,
    413: Refused,
    415: Refused,
    418: Refused,
    422: Refused,
    425: Unavailable,
    429: RateLimited,
    500: Unavailable,
    501: Refused,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
    520: Unavailable,
    521: Unavailable,
    522: Unavailable,
    523: Unavailable,
    524: Unavailable,
}


@pytest.mark.parametrize("content", [{"error": CANARY}, CANARY.encode(), b"", {"success": True}], ids=str)
@pytest.mark.parametrize(("status", "kind"), STATUSES.items())
def test_a_status_of_a_resource_endpoint(status: int, kind: type[VantaError], content: Any) -> None:
    with pytest.raises(VantaError) as caught:
        check_resource_reply(reply(status, content))
    assert type(caught.value) is kind
    assert str(status) in str(caught.value)
    assert CANARY not in f"{caught.value!r} {caught.value.__context__!r}"


def test_only_a_200_passes() -> None:
    assert check_resource_reply(reply(200, b"anything")).content == b"anything"


@pytest.mark.parametrize(
    ("status", "content", "kind"),
    [
        (400, {"error": "invalid_grant", "error_description": CANARY}, GrantRefused),
        (401, {"error": "invalid_grant"}, GrantRefused),
        (403, {"error": "invalid_grant"}, GrantRefused),
        (400, {"error": "invalid_client"}, ApplicationRefused),
        (401, {"error": "invalid_client", "error_description": CANARY}, ApplicationRefused),
        (400, {"error": "invalid_request", "error_description": CANARY}, Refused),
        (400, {"error": CANARY}, Refused),
        (400, {"error": ["invalid_grant"]}, Refused),
        (400, CANARY.encode(), Refused),
        (401, b"<html>", Refused),
        (403, b"<html>", Refused),
        (404, {}, Refused),
        (307, b"", Refused),
        (429, {"error": "invalid_grant"}, RateLimited),
        # Taking a server's trouble for a verdict on the grant would cost a customer their connection.
        (500, {"error": "invalid_grant"}, Unavailable),
        (503, {"error": "invalid_grant"}, Unavailable),
        (503, {"error": "invalid_client"}, Unavailable),
        (502, b"<html>", Unavailable),
        (504, b"", Unavailable),
        # 200 without a token: whether the grant was rotated is not known.
        (200, {}, Unavailable),
        (200, {"error": "invalid_grant"}, Unavailable),
        (200, {"access_token": None}, Unavailable),
        (200, {"access_token": ""}, Unavailable),
        (200, {"access_token": 7}, Unavailable),
        (200, [], Unavailable),
        (200, b'{"access_token": "vat_', Unavailable),
        (200, b"<html>", Unavailable),
    ],
)
def test_a_refusal_of_the_token_endpoint(status: int, content: Any, kind: type[VantaError]) -> None:
    with pytest.raises(VantaError) as caught:
        check_token_reply(reply(status, content))
    assert type(caught.value) is kind
    assert CANARY not in f"{caught.value!r} {caught.value.__context__!r}"


def test_a_token_reply_passes() -> None:
    assert check_token_reply(reply(200, {"access_token": "vat_x"})).status_code == 200


def test_what_may_pass_and_what_may_not() -> None:
    assert issubclass(Unavailable, Transient)
    assert issubclass(RateLimited, Transient)
    for kind in (AccessTokenRefused, GrantRefused, ApplicationRefused, BodyRefused, NotAccepted, Refused):
        assert issubclass(kind, Permanent)
        assert not issubclass(kind, Transient)


@pytest.mark.parametrize(
    "content",
    [
        {"success": True},
        {"success": True, "results": None},
        {"success": True, "results": {"accepted": 3, "rejected": 0}},
        {"results": {"accepted": 3, "rejected": 0}},
    ],
    ids=str,
)
def test_a_verdict_that_says_yes(content: Any) -> None:
    check_verdict(reply(200, content))


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        None,
        {"success": False},
        {"success": None},
        {"success": 1},
        {"success": "true"},
        {"success": False, "results": {"accepted": 3, "rejected": 0}},
        {"success": True, "results": {"accepted": 2, "rejected": 1}},
        {"results": {"accepted": 2, "rejected": 1}},
        {"results": {"accepted": 2, "rejected": -1}},
        {"results": {"accepted": 2, "rejected": "0"}},
        {"results": {"accepted": 2, "rejected": None}},
        {"results": {"accepted": 2, "rejected": False}},
        {"results": {"accepted": 2}},
        {"results": []},
        {"results": {"accepted": 2, "rejected": [CANARY]}},
        {"status": "ok"},
        b"",
        b"<html>ok</html>",
        b'{"success": tr',
    ],
    ids=str,
)
def test_a_verdict_that_does_not_say_yes(content: Any) -> None:
    with pytest.raises(NotAccepted) as caught:
        check_verdict(reply(200, content))
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, DEFAULT_PAUSE),
        ("", DEFAULT_PAUSE),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 1.0),
        ("3601", LONGEST_PAUSE),
        ("9" * 400, LONGEST_PAUSE),
        ("-5", DEFAULT_PAUSE),
        ("1.5", DEFAULT_PAUSE),
        ("soon", DEFAULT_PAUSE),
        ("\N{ARABIC-INDIC DIGIT SEVEN}", DEFAULT_PAUSE),
        ("nan", DEFAULT_PAUSE),
        ("Sun, 01 Mar 2026 12:00:42 GMT", 42.0),
        ("Sun, 01 Mar 2026 12:00:42 +0000", 42.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 1.0),
        ("Mon, 01 Mar 2027 12:00:00 GMT", LONGEST_PAUSE),
        ("Sun, 01 Mar 2026 12:00:42 -0000", DEFAULT_PAUSE),
        ("Sun, 99 Mar 2026 12:00:42 GMT", DEFAULT_PAUSE),
        ("Sun, 01 Mar 99999 12:00:42 GMT", DEFAULT_PAUSE),
    ],
)
def test_retry_after(header: str | None, seconds: float) -> None:
    response = reply(429, **({} if header is None else {"Retry_After": header}))
    assert retry_after(response, NOW) == seconds


@given(st.text() | st.from_regex(r"\A\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ [+-]?\w{1,6}\Z"))
def test_no_retry_after_breaks_us_or_silences_us(header: str) -> None:
    response = requests.Response()
    response.headers["Retry-After"] = header
    assert 1.0 <= retry_after(response, NOW) <= LONGEST_PAUSE


def test_a_429_carries_its_pause() -> None:
    with pytest.raises(RateLimited) as caught:
        check_resource_reply(reply(429, {}, Retry_After="9"))
    assert caught.value.pause == 9.0


@pytest.mark.parametrize(
    ("text", "index", "field"),
    [
        (f'resources[3].email: "{CANARY}" is not an e-mail address', 3, "email"),
        ("resources[12]: has unknown keys", 12, None),
        ("resources.4.mfaMethods.0 is not one of", 4, "mfaMethods"),
        ("/resources/5/status must be one of", 5, "status"),
        (f"resources[0].{CANARY} is wrong", 0, None),
        (f"resources[0]/{CANARY}", 0, None),
        ("resources[1].customProperties is not allowed", 1, None),
        ("Invalid element at index 7: permissionLevel", 7, None),
        ("record #8 is a duplicate", 8, None),
        ("invalid resource at index: 9", 9, None),
        ("invalid resource (index=10)", 10, None),
        (f"{CANARY} is not valid", None, None),
        ("resources[99999999999]: too many", None, None),
        ("element 1234567890 is wrong", None, None),
        ("", None, None),
    ],
)
def test_a_refused_body_names_index_and_field_and_no_value(text: str, index: int | None, field: str | None) -> None:
    with pytest.raises(BodyRefused) as caught:
        check_resource_reply(reply(400, {"error": text}))
    assert (caught.value.index, caught.value.field) == (index, field)
    assert "canary" not in f"{caught.value} {caught.value!r}"
    for part in (index, field):
        assert part is None or str(part) in str(caught.value)


@pytest.mark.parametrize("content", [{"error": {"resources[3]": 1}}, {"message": "resources[3]"}, [], b"resources[3]"])
def test_a_refused_body_without_an_error_string(content: Any) -> None:
    with pytest.raises(BodyRefused) as caught:
        check_resource_reply(reply(400, content))
    assert (caught.value.index, caught.value.field) == (None, None)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"\xff\xfe\x00", b"[" * 100_000, b"9" * 5000, b'{"a": ' + b"9" * 5000 + b"}", b'"text"', b"null"],
    ids=lambda content: str(content[:10]),
)
def test_whatever_is_no_json_object_is_an_empty_one(content: bytes) -> None:
    assert json_object(reply(200, content)) == {}
