"""What a stand-in for Vanta can be told when it starts.

Belongs here: the settings and their defaults, which are Vanta's own figures. Does not belong here: anything that
changes while it runs (``faults``).
"""

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, SecretStr

from symvanta_pipeline.sandbox.server import require_loopback

NonEmpty = Annotated[str, Field(min_length=1)]


def _require_web_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http or https URL")
    return value


InstallationUrl = Annotated[str, AfterValidator(_require_web_url)]


class VantaConfig(BaseModel):
    """Settings of one stand-in.

    Attributes:
        client_id: of the one registered application.
        client_secret: of the same.
        resource_id: of that application's UserAccount resource.
        application_name: shown on the consent page.
        installation_url: where Connect on the marketplace page leads to, until ``/_sandbox`` changes it.
        host: a loopback address.
        port: 0 for any free one.
        token_requests_per_minute: budget of token and suspend calls together, application-wide.
        resource_requests_per_minute: budget of the resource endpoints, application-wide.
        retry_after: whether a 429 carries a ``Retry-After`` header, in seconds; Vanta documents none.
        expires_in: life of an access token in seconds.
        refresh_grace_seconds: how long a superseded refresh token stays usable, counted from its first reuse; 0
            for not at all.
        secret_marker: stands in every code and token that it issues, so that one is recognised wherever it turns up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    client_id: NonEmpty = "vci_sandbox"
    client_secret: SecretStr = SecretStr("vcs_sandbox")
    resource_id: NonEmpty = "sandbox-user-accounts"
    application_name: NonEmpty = "Sym"
    installation_url: InstallationUrl = "http://127.0.0.1:3080/vanta/install"
    host: Annotated[str, AfterValidator(require_loopback)] = "127.0.0.1"
    port: int = Field(0, ge=0, le=65535)
    token_requests_per_minute: PositiveInt = 5
    resource_requests_per_minute: PositiveInt = 20
    retry_after: bool = False
    expires_in: PositiveInt = 3600
    refresh_grace_seconds: NonNegativeFloat = 10800.0
    secret_marker: str = Field("", pattern="^[A-Za-z0-9]*$")

    def arguments(self) -> list[str]:
        """These settings as arguments of ``python -m symvanta_pipeline.sandbox.vanta``, the secret left out."""
        values = self.model_dump(exclude={"client_secret", "retry_after"})
        options = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
        return [*options, "--retry-after" if self.retry_after else "--no-retry-after"]

    def environment(self) -> Mapping[str, str]:
        """The secret, as the variable that the command reads."""
        return {"VANTA_CLIENT_SECRET": self.client_secret.get_secret_value()}
