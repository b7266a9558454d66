import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from symvanta_pipeline import settings
from symvanta_pipeline.ledger.vault import KeyRing
from symvanta_pipeline.settings import (
    ConnectSettings,
    DagsterSettings,
    KeySettings,
    LedgerSettings,
    LoginSettings,
    SandboxSettings,
    ScheduleSettings,
    SettingsError,
    SourceSettings,
    SyncSettings,
    VantaSettings,
    is_loopback,
    link_to_vanta,
    load,
)

GROUPS: list[type[settings._Group]] = [
    SourceSettings,
    LedgerSettings,
    KeySettings,
    DagsterSettings,
    VantaSettings,
    SyncSettings,
    ConnectSettings,
    LoginSettings,
    ScheduleSettings,
    SandboxSettings,
]
GROUP_BY_VARIABLE = {name.upper(): group for group in GROUPS for name in group.model_fields}
CANARY = "canary"


def key(byte: int) -> str:
    return base64.urlsafe_b64encode(bytes([byte] * 32)).decode()


RING = f"k1:{key(1)}"
DEFAULTS: dict[str, object] = {
    "VANTA_API_URL": "https://api.vanta.com",
    "VANTA_APP_URL": "https://app.vanta.com",
    "VANTA_USER_ACCOUNT_PATH": "/v1/resources/user_account/sync_all",
    "VANTA_TOKEN_REQUESTS_PER_MINUTE": 5,
    "VANTA_RESOURCE_REQUESTS_PER_MINUTE": 20,
    "SYM_APP_URL": "https://app.symops.com",
    "SYMVANTA_PUBLIC_URL": "http://127.0.0.1:3080",
    "SYMVANTA_CUSTOMERS_PER_RUN": 25,
    "SYMVANTA_DATA_URL": ".symvanta/data",
    "SYMVANTA_DATA_DIR": Path(".symvanta"),
}
REQUIRED = {
    "SYM_DATABASE_URL": "postgresql://u:p@h/sym",
    "SYMVANTA_DATABASE_URL": "postgresql://u:p@h/symvanta",
    "DAGSTER_POSTGRES_URL": "postgresql+psycopg2://u:p@h/dagster",
    "VANTA_CLIENT_ID": "vci_x",
    "VANTA_CLIENT_SECRET": "vcs_x",
    "VANTA_RESOURCE_ID": "resource",
    "SYMVANTA_TOKEN_KEYS": RING,
    "SYM_OIDC_ISSUER": "https://sym.auth0.example/",
    "SYM_OIDC_CLIENT_ID": "oidc_x",
    "SYM_OIDC_CLIENT_SECRET": "oidc_secret_x",
}


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start with an empty folder and with none of the variables, in whatever case they were written."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.upper() in GROUP_BY_VARIABLE:
            monkeypatch.delenv(name)


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)


def value_of(variable: str) -> Any:
    value = getattr(load(GROUP_BY_VARIABLE[variable]), variable.lower())
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def problem_with(variable: str) -> str:
    with pytest.raises(SettingsError) as caught:
        value_of(variable)
    told = str(caught.value)
    assert CANARY not in f"{told} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert "\n" not in told
    return told


def test_every_variable_is_required_or_has_a_default() -> None:
    assert set(GROUP_BY_VARIABLE) == set(DEFAULTS) | set(REQUIRED)


@pytest.mark.usefixtures("complete")
@pytest.mark.parametrize(("variable", "default"), DEFAULTS.items())
def test_a_default(variable: str, default: object) -> None:
    assert value_of(variable) == default


@pytest.mark.usefixtures("complete")
@pytest.mark.parametrize(("variable", "value"), REQUIRED.items())
def test_a_required_one(variable: str, value: str) -> None:
    assert value_of(variable) == value


@pytest.mark.parametrize("blank", [None, "", " ", "\t\n"], ids=repr)
@pytest.mark.parametrize("variable", REQUIRED)
def test_a_missing_one_is_named_with_what_it_should_hold(
    variable: str, blank: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if blank is not None:
        monkeypatch.setenv(variable, blank)
    description = GROUP_BY_VARIABLE[variable].model_fields[variable.lower()].description
    assert f"{variable} is not set: it should hold {description}" in problem_with(variable)


@pytest.mark.usefixtures("complete")
@pytest.mark.parametrize("blank", ["", "  "], ids=repr)
@pytest.mark.parametrize(("variable", "default"), DEFAULTS.items())
def test_a_blank_one_counts_as_unset(
    variable: str, default: object, blank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, blank)
    assert value_of(variable) == default


DATABASES = ["SYM_DATABASE_URL", "SYMVANTA_DATABASE_URL", "DAGSTER_POSTGRES_URL"]
WEB_URLS = ["VANTA_API_URL", "VANTA_APP_URL", "SYM_APP_URL", "SYMVANTA_PUBLIC_URL", "SYM_OIDC_ISSUER"]
MALFORMED: list[tuple[str, str]] = [
    *((name, CANARY) for name in DATABASES),
    *((name, f"postgresql://u:{CANARY}@h") for name in DATABASES),
    *((name, f"postgresql://u:{CANARY}@h/") for name in DATABASES),
    *((name, f"mysql://u:{CANARY}@h/d") for name in DATABASES),
    *((name, f"https://u:{CANARY}@h/d") for name in DATABASES),
    *((name, f"postgresql://[{CANARY}/d") for name in DATABASES),
    ("SYM_DATABASE_URL", f"postgresql+psycopg2://u:{CANARY}@h/d"),  # opened by libpq itself
    ("DAGSTER_POSTGRES_URL", f"postgresql+psycopg://u:{CANARY}@h/d"),  # dagster-postgres dies on psycopg 3
    ("DAGSTER_POSTGRES_URL", f"postgres://u:{CANARY}@h/d"),  # SQLAlchemy has no such dialect
    *((name, CANARY) for name in WEB_URLS),
    *((name, f"http://{CANARY}.example.com") for name in WEB_URLS),
    *((name, f"ftp://{CANARY}.example.com") for name in WEB_URLS),
    *((name, f"https://h/?{CANARY}=1") for name in WEB_URLS),
    *((name, f"https://h/#{CANARY}") for name in WEB_URLS),
    *((name, f"https://{CANARY}:x@h/") for name in WEB_URLS),
    *((name, f"https://:{CANARY}@h/") for name in WEB_URLS),
    *((name, f"https://h:{CANARY}/") for name in WEB_URLS),
    *((name, f"https://h:99999/{CANARY}") for name in WEB_URLS),
    *((name, f"https://h:0/{CANARY}") for name in WEB_URLS),
    *((name, f"https://h/{CANARY} x") for name in WEB_URLS),
    *((name, f"https://h/{CANARY}?") for name in WEB_URLS),
    *((name, f"https:///{CANARY}") for name in WEB_URLS),
    *((name, f"https://[{CANARY}") for name in WEB_URLS),
    *((name, f"http://127.0.0.1.{CANARY}.example.com") for name in WEB_URLS),
    *((name, f"http://localhost.{CANARY}.example.com") for name in WEB_URLS),
    ("SYM_APP_URL", "http://127.0.0.1:3000"),  # goes out as externalUrl, which has to be https
    ("SYMVANTA_PUBLIC_URL", f"https://h/{CANARY}"),
    ("SYMVANTA_PUBLIC_URL", f"https://h/{CANARY}/"),
    ("SYMVANTA_PUBLIC_URL", f"http://127.0.0.1:3080/{CANARY}"),
    ("VANTA_USER_ACCOUNT_PATH", CANARY),
    ("VANTA_USER_ACCOUNT_PATH", f"https://h/{CANARY}"),
    ("VANTA_USER_ACCOUNT_PATH", f"/{CANARY}/"),
    ("VANTA_USER_ACCOUNT_PATH", f"/{CANARY}?a=b"),
    ("VANTA_USER_ACCOUNT_PATH", f"/{CANARY}#a"),
    ("VANTA_USER_ACCOUNT_PATH", f"/{CANARY} a"),
    *(
        (name, value)
        for name in ("VANTA_TOKEN_REQUESTS_PER_MINUTE", "VANTA_RESOURCE_REQUESTS_PER_MINUTE")
        for value in (CANARY, "0", "-1", "1.5", "1e2", "inf")
    ),
    ("VANTA_TOKEN_REQUESTS_PER_MINUTE", "1"),  # one is kept for people, one is for the runs
    *(("SYMVANTA_CUSTOMERS_PER_RUN", value) for value in (CANARY, "0", "-1", "1.5")),
    *(
        ("SYMVANTA_TOKEN_KEYS", value)
        for value in (
            CANARY,
            key(1),
            f":{key(1)}",
            f"{CANARY}:",
            f"k1:{CANARY}",
            f"k1:{base64.urlsafe_b64encode(CANARY.encode()).decode()}",
            f"k1:{base64.urlsafe_b64encode(bytes(33)).decode()}",
            f"k1:{key(1)},",
            f"k1:{key(1)},k1:{key(2)}",
            f"k1:{key(1)}:{CANARY}",
            f"k1:{key(1)[:20]}!!{key(1)[20:]}",
            f"k1:{key(1)[:20]}\n{key(1)[20:]}",
            f"k1:{key(1)[:20]}é{key(1)[21:]}",
        )
    ),
]


@pytest.mark.usefixtures("complete")
@pytest.mark.parametrize(("variable", "value"), MALFORMED)
def test_a_malformed_one_is_named_with_what_it_should_hold(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    description = GROUP_BY_VARIABLE[variable].model_fields[variable.lower()].description
    told = problem_with(variable)
    assert told == f"{variable} is malformed: it should hold {description}"
    assert value not in told


def test_all_of_a_group_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VANTA_API_URL", CANARY)
    told = problem_with("VANTA_CLIENT_ID")
    for name in (
        "VANTA_CLIENT_ID is not",
        "VANTA_CLIENT_SECRET is not",
        "VANTA_RESOURCE_ID is not",
        "VANTA_API_URL is m",
    ):
        assert name in told
    assert "VANTA_APP_URL" not in told
    assert "SYM_DATABASE_URL" not in told


GOOD: list[tuple[str, str, object]] = [
    ("SYM_DATABASE_URL", "postgres://u:p%2F@h:1/d?sslmode=require", "postgres://u:p%2F@h:1/d?sslmode=require"),
    ("SYM_DATABASE_URL", "postgresql:///d?host=/run", "postgresql:///d?host=/run"),
    ("SYM_DATABASE_URL", "postgresql://a:1,b:2/d", "postgresql://a:1,b:2/d"),
    ("SYMVANTA_DATABASE_URL", "postgresql+psycopg://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
    ("SYMVANTA_DATABASE_URL", "postgresql+psycopg2://u:p@h/d", "postgresql+psycopg2://u:p@h/d"),
    ("DAGSTER_POSTGRES_URL", "postgresql://u:p@h/d", "postgresql://u:p@h/d"),
    ("VANTA_API_URL", "https://api.vanta-gov.com", "https://api.vanta-gov.com"),
    ("VANTA_API_URL", "https://api.vanta-gov.com/", "https://api.vanta-gov.com"),
    ("VANTA_API_URL", "http://127.0.0.1:4000", "http://127.0.0.1:4000"),
    ("VANTA_API_URL", "http://127.1.2.3", "http://127.1.2.3"),
    ("VANTA_API_URL", "http://localhost:4000/", "http://localhost:4000"),
    ("VANTA_APP_URL", "http://[::1]:4000", "http://[::1]:4000"),
    ("SYM_APP_URL", "https://sym.example.com/base/", "https://sym.example.com/base"),
    ("SYMVANTA_PUBLIC_URL", "https://connect.sym.example/", "https://connect.sym.example"),
    ("SYMVANTA_PUBLIC_URL", "http://localhost:8000", "http://localhost:8000"),
    # Compared letter by letter with what the provider says, so nothing but blanks around it is taken off.
    ("SYM_OIDC_ISSUER", " https://Sym.auth0.example/\n", "https://Sym.auth0.example/"),
    ("SYM_OIDC_ISSUER", "https://login.example/tenant/v2.0", "https://login.example/tenant/v2.0"),
    ("SYM_OIDC_ISSUER", "https://login.example/tenant//", "https://login.example/tenant//"),
    ("SYM_OIDC_ISSUER", "http://127.0.0.1:4000", "http://127.0.0.1:4000"),
    ("SYM_OIDC_CLIENT_SECRET", "oidc_y\n", "oidc_y"),
    ("VANTA_USER_ACCOUNT_PATH", "/v1/resources/user_account", "/v1/resources/user_account"),
    ("VANTA_TOKEN_REQUESTS_PER_MINUTE", "2", 2),
    ("VANTA_RESOURCE_REQUESTS_PER_MINUTE", "1", 1),
    ("SYMVANTA_CUSTOMERS_PER_RUN", "1", 1),
    ("SYMVANTA_DATA_URL", "s3://bucket/prefix", "s3://bucket/prefix"),
    ("SYMVANTA_DATA_DIR", "/var/lib/symvanta", Path("/var/lib/symvanta")),
    # A secret that was mounted as a file often ends in a newline.
    ("VANTA_CLIENT_SECRET", "vcs_y\n", "vcs_y"),
    ("VANTA_CLIENT_ID", " vci_y ", "vci_y"),
]


@pytest.mark.usefixtures("complete")
@pytest.mark.parametrize(("variable", "text", "value"), GOOD)
def test_what_is_accepted(variable: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, text)
    assert value_of(variable) == value


def test_vanta_sends_people_back_to_the_public_url(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(ConnectSettings).redirect_uri == "http://127.0.0.1:3080/vanta/callback"
    monkeypatch.setenv("SYMVANTA_PUBLIC_URL", "https://connect.sym.example/")
    assert load(ConnectSettings).redirect_uri == "https://connect.sym.example/vanta/callback"


@pytest.mark.parametrize(
    "text",
    [
        RING,
        RING.rstrip("="),
        f" new:{key(2)} , old:{key(1)} ",
        f"2026-01:{base64.urlsafe_b64encode(bytes(range(224, 256))).decode()}",
        *(value for name, value in MALFORMED if name == "SYMVANTA_TOKEN_KEYS"),
    ],
)
def test_a_key_ring_is_accepted_here_exactly_where_the_vault_accepts_it(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMVANTA_TOKEN_KEYS", text)

    def accepted(read: Callable[[], object]) -> bool:
        try:
            read()
        except (SettingsError, ValueError):
            return False
        return True

    here = accepted(lambda: load(KeySettings))
    assert here == accepted(lambda: KeyRing(text))
    assert here == (("SYMVANTA_TOKEN_KEYS", text) not in MALFORMED)


def test_a_dotenv_beside_the_project_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('SYM_DATABASE_URL="postgresql://u:p@h/dotenv"\nUNRELATED=1\n')
    assert value_of("SYM_DATABASE_URL") == "postgresql://u:p@h/dotenv"


def test_the_environment_wins_over_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("SYM_DATABASE_URL=postgresql://u:p@h/dotenv\nVANTA_TOKEN_REQUESTS_PER_MINUTE=9\n")
    monkeypatch.setenv("SYM_DATABASE_URL", "postgresql://u:p@h/environment")
    assert value_of("SYM_DATABASE_URL") == "postgresql://u:p@h/environment"
    monkeypatch.setenv("SYM_DATABASE_URL", "")
    assert value_of("SYM_DATABASE_URL") == "postgresql://u:p@h/dotenv"


def test_a_malformed_value_of_it_is_told_alike(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"SYM_DATABASE_URL={CANARY}\n")
    assert "SYM_DATABASE_URL is malformed" in problem_with("SYM_DATABASE_URL")


@pytest.mark.usefixtures("complete")
def test_secrets_show_in_no_repr() -> None:
    for group in GROUPS:
        shown = repr(load(group))
        for secret in ("u:p@h", "vcs_x", key(1), "oidc_secret_x"):
            assert secret not in shown


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.255.0.1", True),
        ("http://[::1]/", True),
        ("http://localhost", True),
        ("http://LOCALHOST", True),
        ("http://0.0.0.0", False),
        ("http://127.0.0.1.example.com", False),
        ("http://localhost.example.com", False),
        ("http://127.0.0.1@example.com", False),
        ("http://10.0.0.1", False),
        ("https://api.vanta.com", False),
        ("", False),
    ],
)
def test_which_hosts_are_this_machine(url: str, *, loopback: bool) -> None:
    assert is_loopback(url) is loopback


@pytest.mark.parametrize(
    ("setting", "link"),
    [
        ("", "https://app.vanta.com"),
        ("https://app.vanta-gov.com/", "https://app.vanta-gov.com"),
        ("no url", "https://app.vanta.com"),
    ],
)
def test_the_link_to_vanta_is_one_whatever_the_setting(
    setting: str, link: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # away from any .env
    monkeypatch.setenv("VANTA_APP_URL", setting)
    assert link_to_vanta() == link
