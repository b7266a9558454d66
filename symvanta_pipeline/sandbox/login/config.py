"""What a stand-in for Sym's login can be told when it starts.

Belongs here: the settings and their defaults. Does not belong here: anything that changes while it runs (``provider``).
"""

import json
from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, SecretStr

HOST = "127.0.0.1"
CONFIG_VARIABLE = "SANDBOX_LOGIN_CONFIG"
NonEmpty = Annotated[str, Field(min_length=1)]


class Person(NamedTuple):
    """Somebody who can sign in.

    Attributes:
        subject: the ``sub`` of the ID token, at most 255 characters (OpenID Connect Core 1.0, 2).
        label: shown on the sign-in page, and the ``name`` for whoever asks for the scope ``profile``.
    """

    subject: Annotated[str, Field(min_length=1, max_length=255)]
    label: NonEmpty


class LoginConfig(BaseModel):
    """Settings of one stand-in, which always listens on 127.0.0.1.

    Attributes:
        client_id: of the one registered client.
        client_secret: of the same.
        redirect_uris: where sign-ins may end, letter by letter.
        logout_uris: where sign-outs may end, letter by letter.
        people: whom the sign-in page offers, as pairs of subject and label, in this order.
        any_loopback_redirect: whether a registered loopback URI stands for itself on any port (RFC 8252, 7.3).
        port: 0 for any free one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    client_id: NonEmpty = "sym-connect-sandbox"
    client_secret: SecretStr = Field(SecretStr("sandbox-login-secret"), min_length=1)
    redirect_uris: tuple[NonEmpty, ...] = ("http://127.0.0.1:3080/auth/callback",)
    logout_uris: tuple[NonEmpty, ...] = ("http://127.0.0.1:3080/auth/logout",)
    people: tuple[Person, ...] = ()
    any_loopback_redirect: bool = False
    port: int = Field(0, ge=0, le=65535)

    def environment(self) -> Mapping[str, str]:
        """These settings, the secret included, as the variable that the command reads."""
        values = self.model_dump(mode="json") | {"client_secret": self.client_secret.get_secret_value()}
        return {CONFIG_VARIABLE: json.dumps(values)}
