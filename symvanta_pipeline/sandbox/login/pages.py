"""The pages for people: signing in, having signed out, and what is wrong with a link.

Belongs here: what a page shows. Does not belong here: any decision.
"""

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from symvanta_pipeline.sandbox.login.config import Person

HERE = Path(__file__).resolve().parent.parent
STATIC = HERE / "static"
_templates = Jinja2Templates(directory=HERE / "templates")


def sign_in_page(request: Request, people: list[Person], *, problem: str = "", status: int = 200) -> Response:
    """Ask who signs in; the form posts back to the same address, whose query carries everything."""
    return _page(request, "sign_in", status=status, people=people, problem=problem)


def signed_out_page(request: Request) -> Response:
    """Say that nobody is signed in any more."""
    return _page(request, "signed_out", status=200)


def problem_page(request: Request, title: str, problem: str) -> Response:
    """Say what is wrong with a request, status 400."""
    return _page(request, "problem", status=400, title=title, problem=problem)


def _page(request: Request, name: str, *, status: int, **context: Any) -> Response:
    return _templates.TemplateResponse(request, f"login_{name}.html", context, status_code=status)
