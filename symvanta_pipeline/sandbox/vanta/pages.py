"""The pages for people: marketplace, consent, the list of tenants, a tenant's Access page.

Belongs here: what a page shows. Does not belong here: state, or any decision about it.
"""

from pathlib import Path
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from symvanta_pipeline.sandbox.vanta.accounts import StoredAccount
from symvanta_pipeline.sandbox.vanta.oauth import READ, SCOPES, WRITE, problem_with_redirect

HERE = Path(__file__).resolve().parent.parent
STATIC = HERE / "static"
SCOPE_WORDS = {
    WRITE: "Send the list of your users and replace it every hour",
    READ: "Read back the users that it sent",
}
CONSENT_PARAMETERS = ("client_id", "scope", "state", "redirect_uri", "source_id", "response_type")
SHOWN_STATUSES = ("Active", "Deactivated")
_templates = Jinja2Templates(directory=HERE / "templates")


def page(request: Request, name: str, *, status: int = 200, **context: Any) -> Response:
    """Render one of the stand-in's templates."""
    response = _templates.TemplateResponse(request, f"vanta_{name}.html", context, status_code=status)
    response.headers["Cache-Control"] = "no-store"
    return response


def problem_page(request: Request, title: str, problem: str, *, status: int) -> Response:
    """A page that says what is wrong."""
    return page(request, "problem", status=status, title=title, problem=problem)


def consent_page(request: Request, *, application: str, tenant: str) -> Response:
    """Ask for consent; the form posts back to the same address, whose query carries everything."""
    scopes = [SCOPE_WORDS[scope] for scope in request.query_params["scope"].split()]
    return page(request, "consent", application=application, tenant=tenant, scopes=scopes)


def problem_with_consent(query: QueryParams, client_id: str) -> str:
    """Why this authorization request is refused; an empty string where it is not.

    All parameters are demanded, none twice. The redirect comes early, so that nobody is ever sent to a doubtful one.
    """
    for name in CONSENT_PARAMETERS:
        if len(query.getlist(name)) != 1 or not query[name].strip():
            return f"{name} must be given once"
    if query["client_id"] != client_id:
        return "client_id is not a registered application's"
    if problem := problem_with_redirect(query["redirect_uri"]):
        return problem
    if query["response_type"] != "code":
        return "response_type must be code"
    if set(query["scope"].split()) - set(SCOPES):
        return f"scope must be among: {' '.join(SCOPES)}"
    return ""


def access_page(request: Request, *, tenant: str, label: str, stored: list[StoredAccount]) -> Response:
    """Show a tenant's accounts as Vanta's Access page does, filtered by the query's ``status``."""
    wanted = request.query_params.get("status", "")
    shown = [record for record in stored if wanted in {"", record.shown_status}]
    counts = {status: sum(r.shown_status == status for r in stored) for status in SHOWN_STATUSES}
    return page(
        request,
        "access",
        tenant=tenant,
        label=label,
        total=len(stored),
        counts=counts,
        wanted=wanted,
        shown=sorted(shown, key=lambda record: record.account["displayName"].casefold()),
    )
