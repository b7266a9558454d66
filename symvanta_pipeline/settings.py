"""Every environment variable that the project reads, each read and checked here and nowhere else.

Belongs here: names, defaults, what a value must look like, and the sentence a person reads when it does not.
Does not belong here: what is done with a value, and the sandbox's values (``sandbox`` sets those itself).

A command or a run loads just the groups that it uses, so that a missing variable is only named to somebody
who needs it: ``source = load(SourceSettings)``. A ``.env`` beside the project is read too; the real
environment wins over it.
"""

import base64
import binascii
import ipaddress
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LIBPQ_SCHEMES = ("postgresql", "postgres")


class SettingsError(Exception):
    """One or more variables are missing or malformed; the text names each and says what it should hold."""


def is_loopback(url: str) -> bool:
    """Tell whether a URL's host is this machine: ``localhost`` or a loopback address."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _web_url(value: str) -> str:
    parts = urlsplit(value)
    if not parts.hostname or parts.port == 0 or any(c in "?#@" or c.isspace() for c in value):
        raise ValueError
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(value)):
        raise ValueError
    return value.rstrip("/")


def _origin(value: str) -> str:
    origin = _web_url(value)
    if urlsplit(origin).path:
        raise ValueError
    return origin


def _issuer(value: str) -> str:
    _web_url(value)
    return value


def _https_url(value: str) -> str:
    if urlsplit(value).scheme != "https":
        raise ValueError
    return _web_url(value)


def _postgres_url(*schemes: str) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        parts = urlsplit(value.get_secret_value())
        if parts.scheme not in schemes or not parts.path.strip("/"):
            raise ValueError
        return value

    return AfterValidator(check)


def _webhook_url(value: SecretStr) -> SecretStr:
    """Check that nobody on the way can read it; its path and query are the secret, so that it stays as it is."""
    url = value.get_secret_value()
    _web_url(url.partition("?")[0])
    if any(c == "#" or c.isspace() for c in url):
        raise ValueError
    return value


def _link_url(value: str) -> str:
    """Check a base that people are led to; nothing is sent there, so that http is good enough."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError
    if any(c in "?#@<>|" or c.isspace() for c in value):
        raise ValueError
    return value.rstrip("/")


def _path(value: str) -> str:
    if not value.startswith("/") or value.endswith("/") or any(c in "?#" or c.isspace() for c in value):
        raise ValueError
    return value


def _key_ring(value: SecretStr) -> SecretStr:
    ids = set()
    for pair in value.get_secret_value().split(","):
        key_id, _, key = pair.strip().partition(":")
        try:
            size = len(base64.b64decode(key + "=" * (-len(key) % 4), altchars=b"-_", validate=True))
        except (ValueError, binascii.Error):
            raise ValueError from None
        if not key_id or key_id in ids or size != KEY_BYTES:
            raise ValueError
        ids.add(key_id)
    return value


KEY_BYTES = 32
LONGEST_DAYS = 36_500  # a century: counted back from now, it is still a date

WebUrl = Annotated[str, AfterValidator(_web_url)]
HttpsUrl = Annotated[str, AfterValidator(_https_url)]
Origin = Annotated[str, AfterValidator(_origin)]
# Compared letter by letter with what the provider says of itself (OpenID Connect Discovery 1.0, 4.3), and Auth0's ends
# in a slash: so nothing is taken off it.
IssuerUrl = Annotated[str, AfterValidator(_issuer)]
# What each is opened with decides: libpq itself, the ledger's own reading, SQLAlchemy as dagster-postgres needs it.
SourceUrl = Annotated[SecretStr, _postgres_url(*LIBPQ_SCHEMES)]
LedgerUrl = Annotated[SecretStr, _postgres_url(*LIBPQ_SCHEMES, "postgresql+psycopg", "postgresql+psycopg2")]
DagsterUrl = Annotated[SecretStr, _postgres_url("postgresql", "postgresql+psycopg2")]
WebhookUrl = Annotated[SecretStr, AfterValidator(_webhook_url)]
LinkUrl = Annotated[str, AfterValidator(_link_url)]
UrlPath = Annotated[str, AfterValidator(_path)]
KeyRingText = Annotated[SecretStr, AfterValidator(_key_ring)]


class _Group(BaseSettings):
    """Variables that are needed together."""

    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
        str_strip_whitespace=True,  # a secret that was mounted as a file often ends in a newline
    )

    @model_validator(mode="before")
    @classmethod
    def _blank_is_unset(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if not isinstance(value, str) or value.strip()}


class SourceSettings(_Group):
    """Where users are read from."""

    sym_database_url: SourceUrl = Field(
        description="the URL of Sym's PostgreSQL, postgresql://user:password@host:port/database"
    )


class LedgerSettings(_Group):
    """The pipeline's own PostgreSQL and the keys of its token vault."""

    symvanta_database_url: LedgerUrl = Field(
        description="the URL of the pipeline's own PostgreSQL, postgresql://user:password@host:port/database"
    )


class KeySettings(_Group):
    """The key ring of the token vault."""

    symvanta_token_keys: KeyRingText = Field(
        description="id:key pairs separated by commas, each key 32 bytes in url-safe base64; the first encrypts"
    )


class DagsterSettings(_Group):
    """Dagster's instance storage."""

    dagster_postgres_url: DagsterUrl = Field(
        description="the URL of Dagster's PostgreSQL, postgresql+psycopg2://user:password@host:port/database"
    )


class VantaAppSettings(_Group):
    """Where people see what Vanta makes of it, and give their consent."""

    vanta_app_url: WebUrl = Field("https://app.vanta.com", description="an https URL without a query")


class VantaApiSettings(_Group):
    """Sym's application at Vanta, the API's host and the rate budgets: all that a push needs."""

    vanta_client_id: str = Field(min_length=1, description="the client id of Sym's OAuth application at Vanta")
    vanta_client_secret: SecretStr = Field(
        min_length=1, description="the client secret of Sym's OAuth application at Vanta"
    )
    vanta_resource_id: str = Field(min_length=1, description="the id that Vanta gave Sym's UserAccount resource")
    vanta_api_url: WebUrl = Field("https://api.vanta.com", description="an https URL without a query")
    vanta_user_account_path: UrlPath = Field(
        "/v1/resources/user_account/sync_all",
        description="a path that starts with / and ends without",
    )
    vanta_token_requests_per_minute: int = Field(
        5,
        ge=2,
        description="a whole number of at least 2, one of them kept for people who connect",
    )
    vanta_resource_requests_per_minute: int = Field(20, ge=1, description="a whole number of at least 1")


class VantaSettings(VantaApiSettings, VantaAppSettings):
    """The same and the host of the consent page: all that a consent needs."""


class SyncSettings(_Group):
    """How records look and where what was read and sent is written."""

    sym_app_url: HttpsUrl = Field(
        "https://app.symops.com", description="an https URL, the base of each account's externalUrl"
    )
    symvanta_data_url: str = Field(
        ".symvanta/data",
        min_length=1,
        description="a folder or an object-store URL such as s3://bucket/prefix",
    )


class ConnectSettings(_Group):
    """Where the connect app is reached."""

    symvanta_public_url: Origin = Field(
        "http://127.0.0.1:3080",
        description="an https URL without a path or a query; http for this machine alone",
    )

    @property
    def redirect_uri(self) -> str:
        """Where Vanta sends people back to; registered there letter by letter."""
        return f"{self.symvanta_public_url}/vanta/callback"


class LoginSettings(_Group):
    """Sym's login for the connect app: Auth0, or any other provider of OpenID Connect."""

    sym_oidc_issuer: IssuerUrl = Field(
        description="Sym's login, an https URL exactly as the provider writes it: Auth0's end in a slash"
    )
    sym_oidc_client_id: str = Field(min_length=1, description="the client id of the connect app at Sym's login")
    sym_oidc_client_secret: SecretStr = Field(
        min_length=1, description="the client secret of the connect app at Sym's login"
    )


class ScheduleSettings(_Group):
    """How many customers one run carries."""

    symvanta_customers_per_run: int = Field(25, ge=1, description="a whole number of at least 1")


class RetentionSettings(_Group):
    """How long what has happened is kept; what is still true is kept for as long as it is."""

    symvanta_keep_runs_days: int = Field(
        30, ge=1, le=LONGEST_DAYS, description=f"a whole number of days from 1 to {LONGEST_DAYS}"
    )
    # The pipeline's own database refuses to forget anything of the last 90 days.
    symvanta_keep_ledger_days: int = Field(
        400, ge=90, le=LONGEST_DAYS, description=f"a whole number of days from 90 to {LONGEST_DAYS}"
    )


class AlertSettings(_Group):
    """Where alerts go, and where they lead to; the log gets them in any case."""

    symvanta_alert_slack_webhook_url: WebhookUrl | None = Field(
        None, description="the https URL of one of Slack's incoming webhooks"
    )
    symvanta_alert_webhook_url: WebhookUrl | None = Field(
        None, description="an https URL that takes JSON; http for this machine alone"
    )
    symvanta_dagster_url: LinkUrl = Field(
        "http://127.0.0.1:3000", description="the http or https URL at which people reach Dagster's UI"
    )
    symvanta_runbook_url: LinkUrl | None = Field(
        None, description="the http or https URL at which people read docs/runbook.md"
    )


class SandboxSettings(_Group):
    """Where the embedded server of the demo lives."""

    symvanta_data_dir: Path = Field(Path(".symvanta"), description="a folder")


Group = TypeVar("Group", bound=_Group)


def load(group: type[Group]) -> Group:
    """Read one group of variables from the environment and ``.env``.

    Raises:
        SettingsError: naming every variable of the group that is missing or malformed and what it should
            hold; never its value.
    """
    try:
        return group()
    except ValidationError as error:
        problems = [_sentence(group, e["loc"], e["type"]) for e in error.errors(include_input=False)]
    raise SettingsError("; ".join(problems))


def link_to_vanta() -> str:
    """Return ``VANTA_APP_URL``, or its default where it is malformed: no link may keep anything else from working."""
    try:
        return load(VantaAppSettings).vanta_app_url
    except SettingsError:
        return str(VantaAppSettings.model_fields["vanta_app_url"].default)


def _sentence(group: type[_Group], location: tuple[int | str, ...], kind: str) -> str:
    name = str(location[0])
    state = "is not set" if kind == "missing" else "is malformed"
    return f"{name.upper()} {state}: it should hold {group.model_fields[name].description}"
