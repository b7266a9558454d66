"""The pages of the connect app.

Belongs here: rendering, and the words for each refusal and trouble. Does not belong here: deciding which page it is.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

HERE: Final = Path(__file__).resolve().parent
STATIC: Final = HERE / "static"
LOOK_AGAIN_SECONDS: Final = 3

REFUSALS: Final = {
    "unknown_person": (
        "Sym does not know you",
        "You are signed in, but no Sym user belongs to this login. Perhaps you have another one.",
    ),
    "other_organization": (
        "This is another organization's page",
        "You are signed in, but not as an admin of this organization.",
    ),
    "not_an_admin": ("Only an admin can do this", "Ask an admin of your organization to connect Vanta."),
    "deactivated": ("Your Sym user is deactivated", "Ask an admin of your organization."),
    "organization_deleted": ("This organization no longer exists in Sym", "Nothing can be connected for it."),
}

PROBLEMS: Final = {
    400: ("This request cannot be understood", "Please start again."),
    403: ("This form is too old", "Nothing was changed. Please open the page again and repeat what you wanted."),
    404: ("There is no such page", "Please check the address."),
    405: ("This is not possible here", "Please start again."),
    413: ("This request is too large", "Please start again."),
    431: ("This browser sends too much", "Please delete this site's cookies and start again."),
    500: ("Something went wrong on our side", "Please look at your organization's page in a few minutes."),
    503: ("Not available right now", "Please try again in a few minutes."),
}
NOT_CONFIRMED: Final = (
    "Disconnected here, and not confirmed by Vanta",
    "Sym sends nothing any more and has forgotten its permission, but could not tell Vanta so. Please remove Sym among "
    "the integrations in Vanta, too.",
)


@dataclass(frozen=True)
class Step:
    """A link that a page offers as the next step."""

    label: str
    path: str


SIGN_IN: Final = Step("Sign in", "/auth/login")
AS_SOMEBODY_ELSE: Final = Step("Sign in as somebody else", "/auth/login?again")
START_AGAIN: Final = Step("Start again", "/vanta/install")

_environment = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(name: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """Render a template; every value is escaped."""
    return HTMLResponse(_environment.get_template(f"{name}.html").render(context), status_code=status)


def message(title: str, text: str, *, status: int, step: Step | None = None, csrf: str | None = None) -> HTMLResponse:
    """Render a page that says one thing, offers at most one step, and signing out where it has a form's token."""
    return page("message", status=status, title=title, text=text, step=step, csrf=csrf)


def problem(status: int, *, step: Step | None = None, csrf: str | None = None) -> HTMLResponse:
    """Render the page of a plain HTTP status."""
    title, text = PROBLEMS[status]
    return message(title, text, status=status, step=step, csrf=csrf)


def not_signed_in() -> HTMLResponse:
    """Render the page for a step that needs a session where there is none any more."""
    text = "Nothing was changed. Sign in, and start again."
    return message("You are not signed in any more", text, status=400, step=SIGN_IN)


def refusal(reason: str, *, then: str, csrf: str | None) -> HTMLResponse:
    """Render the page for somebody who has signed in and may not do this.

    Args:
        reason: one of ``REFUSALS``.
        then: the page of ours that signing in as somebody else leads to.
        csrf: the token of the form that signs out, where there is a session.
    """
    title, text = REFUSALS[reason]
    step = Step(AS_SOMEBODY_ELSE.label, f"{AS_SOMEBODY_ELSE.path}&next={quote(then, safe='')}")
    return message(title, text, status=403, step=step, csrf=csrf)
