"""The connect app: two handshakes, Sym's login and inside it Vanta's consent, and the page that shows what came of it.

Belongs here: the routes and the order of their checks. Does not belong here: what a consent does (``consent``), who
may give it (``office``), pages (``pages``), limits and headers (``guard``).

Every step asks Sym's database afresh who the signed-in person is; nothing that came from a browser is believed but
the session, and a state only together with the session that asked for it.
"""

import hashlib
import hmac
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit
from uuid import UUID

import psycopg
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from symvanta_pipeline.connect import pages
from symvanta_pipeline.connect.consent import (
    Answer,
    Candidate,
    ConsentError,
    Desk,
    NoLongerAllowed,
    NotRegistered,
    TooManyAttempts,
)
from symvanta_pipeline.connect.consent import Request as ConsentRequest
from symvanta_pipeline.connect.cookies import SESSION_LIFETIME, Cookies
from symvanta_pipeline.connect.guard import Guard, origin_of, security_headers
from symvanta_pipeline.connect.login import Login, LoginRefused, LoginUnavailable
from symvanta_pipeline.connect.office import Office, Verdict, judged, judged_by_id
from symvanta_pipeline.connect.standing import CHANGING, shown_time, standing_of
from symvanta_pipeline.ledger import audit, connections, consent_requests, snapshots, web_sessions
from symvanta_pipeline.ledger.connections import Connection, UnusablePartitionKey
from symvanta_pipeline.ledger.consent_requests import SessionEnded
from symvanta_pipeline.ledger.database import LedgerError
from symvanta_pipeline.ledger.locks import LockBusy, is_consent_under_way
from symvanta_pipeline.ledger.web_sessions import WebSession
from symvanta_pipeline.settings import is_loopback
from symvanta_pipeline.sym.database import SourceError
from symvanta_pipeline.sym.people import Membership
from symvanta_pipeline.unforeseen import is_own
from symvanta_pipeline.vanta.errors import GrantRefused, Transient, VantaError

CONSENT_LIFETIME: Final = timedelta(minutes=10)
REFUSAL_TOLD_AGAIN: Final = timedelta(hours=1)
MOST_WAITING: Final = 10  # threads that may wait for Vanta, and as many for the login
INSTALL: Final = "/vanta/install"
CALLBACK: Final = "/vanta/callback"
LOGGED_OUT: Final = "/auth/logout"
SEE_OTHER: Final = 303
LONGEST_PARAMETER: Final = 4096
# Where a sign-in may lead: pages of this app that a person can begin at, and nothing else.
_DESTINATION = re.compile(r"/vanta/install|/orgs/[A-Za-z0-9._~%-]{1,600}/vanta")
_LOOPBACK_HOSTS: Final = ["127.0.0.1", "localhost", "[::1]", "::1"]

Handler = Callable[[Request], Response]
AsyncHandler = Callable[[Request], Awaitable[Response]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConnectApp:
    """The handlers, each for one route; they block, so Starlette runs them in threads.

    Attributes:
        public_url: where browsers reach the app, without a slash at the end.
    """

    office: Office
    login: Login
    cookies: Cookies
    public_url: str

    def install(self, request: Request) -> Response:
        """Vanta's installation URL: straight on to the consent, where it is clear for which organization."""
        with self.office.desk() as desk:
            session = self._session(desk, request)
            if session is None:
                return _redirect(_login_path(INSTALL))
            found = self.office.memberships(session.subject)
            eligible = [membership for membership in found if membership.may_connect]
            if not eligible:
                verdict = judged(found, lambda _: True)
                return self._refused(desk, session, verdict, INSTALL)
            # A person may be two users of one organization.
            by_organization = {membership.organization_id: membership for membership in eligible}
            if len(by_organization) > 1:
                choices = [
                    (membership.organization_name, _status_path(membership.slug), _csrf(session, membership))
                    for membership in by_organization.values()
                ]
                return pages.page("choose", choices=choices, csrf=_csrf(session))
            return _redirect(self._consent_url(desk, session, eligible[0]))

    def status(self, request: Request) -> Response:
        """How one organization's connection stands; also the question before disconnecting."""
        with self.office.desk() as desk:
            session = self._session(desk, request)
            slug = request.path_params["slug"]
            if session is None:
                return _redirect(_login_path(_status_path(slug)))
            membership = self._admin_here(desk, session, slug)
            if isinstance(membership, Response):
                return membership
            if request.query_params.get("confirm") == "disconnect":
                return pages.page(
                    "disconnect",
                    organization=membership.organization_name,
                    path=_status_path(slug),
                    form_token=_csrf(session, membership),
                    csrf=_csrf(session),
                )
            # A page that loads itself again has to be stoppable: WCAG 2.2, criterion 2.2.1.
            follow = request.query_params.get("follow") != "no"
            return self._status_page(desk, session, membership, follow=follow)

    def change(self, request: Request) -> Response:
        """Connect, reconnect or disconnect: a form of the status page."""
        form, slug = _form(request), request.path_params["slug"]
        with self.office.desk() as desk:
            session = self._session(desk, request)
            if session is None:
                return _redirect(_login_path(_status_path(slug)))
            membership = self._admin_here(desk, session, slug)
            if isinstance(membership, Response):
                return membership
            # The form's token names the organization as well: its slug may have changed hands since it was shown.
            if _is_foreign(request) or not _matches(form, _csrf(session, membership)):
                again = pages.Step("Open the page again", _status_path(slug))
                return pages.problem(403, step=again, csrf=_csrf(session))
            if form.get("action") == "connect":
                return _redirect(self._consent_url(desk, session, membership))
            if form.get("action") == "disconnect":
                return self._disconnect(desk, session, membership)
            return pages.problem(400)

    def callback(self, request: Request) -> Response:
        """Vanta's answer, which counts only in the browser that asked, once, for ten minutes, and from an admin."""
        with self.office.desk() as desk:
            session = self._session(desk, request)
            if session is None:
                return pages.not_signed_in()
            state = _parameter(request, "state")
            asked = consent_requests.use(desk.ledger.get(), session, state)
            if asked is None:
                return pages.message(
                    "This answer is too old, or belongs to another browser",
                    "Nothing was connected. Please start again; it takes half a minute.",
                    status=400,
                    step=pages.START_AGAIN,
                    csrf=_csrf(session),
                )
            verdict = judged_by_id(self.office.memberships(session.subject), asked.organization_id)
            if verdict.membership is None or verdict.reason:
                at = _status_path(verdict.membership.slug) if verdict.membership else INSTALL
                return self._refused(desk, session, verdict, at, asked.organization_id)
            if not asked.is_first_use:  # a double click, or the back button: it is done, or being done
                return _redirect(_status_path(verdict.membership.slug))
            return self._take(desk, session, verdict.membership, state, request)

    def begin_login(self, request: Request) -> Response:
        """Send a person to Sym's login."""
        wanted = _parameter(request, "next")
        then = wanted if _DESTINATION.fullmatch(wanted) else INSTALL
        url, handshake = self.login.begin(then, as_somebody_else="again" in request.query_params)
        response = _redirect(url)
        self.cookies.keep_handshake(response, handshake, request.cookies)
        return response

    def finish_login(self, request: Request) -> Response:
        """Take the answer of Sym's login; from here on the browser has a session, with a new id."""
        state = _parameter(request, "state")
        handshake = self.cookies.handshake(request.cookies, state) if state else None
        if handshake is None or not hmac.compare_digest(handshake.state.encode(), state.encode()):
            return pages.message(
                "This sign-in is too old, or belongs to another browser",
                "Please sign in again.",
                status=400,
                step=pages.SIGN_IN,
            )
        code = _parameter(request, "code") if not _parameter(request, "error") else ""
        try:
            subject = self.login.finish(handshake, code)
        except LoginRefused as error:
            log.warning("nobody was signed in: %s", error)
            response: Response = pages.message(
                "You are not signed in", "Sym's login did not let you in.", status=403, step=pages.SIGN_IN
            )
        else:
            response = self._signed_in(request, subject, handshake.then)
        self.cookies.forget_handshake(response, state)
        return response

    def logout(self, request: Request) -> Response:
        """End the session here, and at the login where it offers that."""
        if _is_foreign(request):
            return pages.problem(403)
        with self.office.desk() as desk:
            session = self._session(desk, request)
            if session is None:
                return _redirect(LOGGED_OUT)
            if not _matches(_form(request), _csrf(session)):
                return pages.problem(403, csrf=_csrf(session))
            web_sessions.end(desk.ledger.get(), session)
            audit.record(desk.ledger.get(), "signed_out", actor=self._actor(session.subject))
        response = _redirect(self.login.logout_url(self.public_url + LOGGED_OUT) or LOGGED_OUT)
        self.cookies.forget_session(response)
        return response

    def logged_out(self, request: Request) -> Response:  # noqa: ARG002 - Starlette calls it with one
        """Say that the person is signed out; changes nothing."""
        return pages.message("You are signed out", "You may close this page.", status=200, step=pages.AS_SOMEBODY_ELSE)

    async def health(self, request: Request) -> Response:  # noqa: ARG002 - Starlette calls it with one
        """Tell a load balancer that this process answers; a database that is away is told on a page, to people."""
        return PlainTextResponse("ok\n")

    def _session(self, desk: Desk, request: Request) -> WebSession | None:
        session_id = self.cookies.session_id(request.cookies)
        return web_sessions.find(desk.ledger.get(), desk.keyring, session_id) if session_id else None

    def _signed_in(self, request: Request, subject: str, then: str) -> Response:
        """Begin a session for somebody whom Sym knows; anybody else is told so, and leaves nothing behind."""
        with self.office.desk() as desk:
            found = self.office.memberships(subject)
            if not found:
                self._write_down(desk, subject, Verdict(None, "unknown_person"), None)
                return pages.refusal("unknown_person", then=then, csrf=None)
            session = web_sessions.begin(
                desk.ledger.get(),
                desk.keyring,
                subject,
                lifetime=SESSION_LIFETIME,
                replaces=self._session(desk, request),
            )
            audit.record(desk.ledger.get(), "signed_in", actor=found[0].user_id)
        response = _redirect(then)
        self.cookies.keep_session(response, session.id)
        return response

    def _actor(self, subject: str) -> str:
        """Name a person for the audit log: by ``users.id``, or else by a hash, since a subject may be an address."""
        with suppress(SourceError):
            if found := self.office.memberships(subject):
                return found[0].user_id
        return f"login:{hashlib.sha256(subject.encode()).hexdigest()[:16]}"

    def _admin_here(self, desk: Desk, session: WebSession, slug: str) -> Membership | Response:
        """Return the person's membership in the organization that has this slug today, or the page that refuses."""
        verdict = judged(self.office.memberships(session.subject), lambda membership: membership.slug == slug)
        if verdict.membership is None or verdict.reason:
            return self._refused(desk, session, verdict, _status_path(slug), self.office.organization_id(slug))
        return verdict.membership

    def _refused(
        self, desk: Desk, session: WebSession, verdict: Verdict, at: str, organization_id: UUID | None = None
    ) -> Response:
        """Write a refusal down, and offer to come back to the same page as somebody else."""
        self._write_down(desk, session.subject, verdict, organization_id)
        return pages.refusal(verdict.reason or "other_organization", then=at, csrf=_csrf(session))

    def _write_down(self, desk: Desk, subject: str, verdict: Verdict, organization_id: UUID | None) -> None:
        """Put a refusal into the audit log, once an hour where it is the same."""
        membership = verdict.membership
        audit.record_once(
            desk.ledger.get(),
            "refused",
            organization_id=UUID(membership.organization_id) if membership else organization_id,
            actor=membership.user_id if membership else self._actor(subject),
            detail=verdict.reason or "other_organization",
            within=REFUSAL_TOLD_AGAIN,
        )

    def _consent_url(self, desk: Desk, session: WebSession, membership: Membership) -> str:
        organization_id = UUID(membership.organization_id)
        asked = desk.ask(Candidate(organization_id, membership.slug), self.public_url + CALLBACK)
        consent_requests.remember(desk.ledger.get(), session, asked.state, organization_id, lifetime=CONSENT_LIFETIME)
        # Any page can send a browser to where it begins.
        audit.record_once(
            desk.ledger.get(),
            "consent_asked",
            organization_id=organization_id,
            actor=membership.user_id,
            within=CONSENT_LIFETIME,
        )
        return asked.url

    def _take(self, desk: Desk, session: WebSession, membership: Membership, state: str, request: Request) -> Response:
        organization_id = UUID(membership.organization_id)
        consent = ConsentRequest(
            Candidate(organization_id, membership.slug), self.public_url + CALLBACK, state=state, url=""
        )
        answer = Answer(state, _parameter(request, "code"), _parameter(request, "error"))

        def still_allowed() -> bool:
            return judged_by_id(self.office.memberships(session.subject), organization_id).reason is None

        try:
            desk.take(
                consent,
                answer,
                actor=membership.user_id,
                connected_by=membership.user_id,
                still_allowed=still_allowed,
            )
        except NotRegistered as delayed:  # the token is safe, and the sensor registers the partition
            log.warning("%s", delayed)
        except LockBusy:  # somebody else's step, which the page follows
            return _redirect(_status_path(membership.slug))
        except (ConsentError, VantaError) as error:
            return _consent_failed(error, answer, session, membership)
        return _redirect(_status_path(membership.slug))

    def _disconnect(self, desk: Desk, session: WebSession, membership: Membership) -> Response:
        path = _status_path(membership.slug)
        try:
            departure = desk.leave(UUID(membership.organization_id), actor=membership.user_id)
        except (ConsentError, LockBusy):
            return _redirect(path)
        if departure.trouble is None:
            return _redirect(path)
        log.warning("organization %s: its grant could not be ended: %s", membership.organization_id, departure.trouble)
        step = pages.Step("Back to the connection", path)
        return pages.message(*pages.NOT_CONFIRMED, status=200, step=step, csrf=_csrf(session))

    def _status_page(self, desk: Desk, session: WebSession, membership: Membership, *, follow: bool) -> Response:
        organization_id = UUID(membership.organization_id)
        connection = connections.find(desk.ledger.get(), organization_id)
        record = snapshots.customer_record(desk.ledger.get(), organization_id)
        under_way = is_consent_under_way(desk.ledger.get(), organization_id)
        standing = CHANGING if under_way else standing_of(record, datetime.now(UTC))
        facts = []
        if connection is not None:
            facts.append(("Connected since", self._since(connection, membership)))
            facts.append(("Disconnected", shown_time(connection.disconnected_at)))
        if record is not None and record.last_accepted_at:
            facts.append(("Last accepted by Vanta", shown_time(record.last_accepted_at)))
            facts.append(("Users in it", f"{record.active} active, {record.deactivated} deactivated"))
        return pages.page(
            "status",
            organization=membership.organization_name,
            path=_status_path(membership.slug),
            standing=standing,
            facts=[(name, value) for name, value in facts if value],
            was_connected=connection is not None,
            follows=standing.follows and follow,
            look_again_seconds=pages.LOOK_AGAIN_SECONDS,
            form_token=_csrf(session, membership),
            csrf=_csrf(session),
        )

    def _since(self, connection: Connection, membership: Membership) -> str | None:
        if connection.state == "disconnected":
            return None
        who = self.office.name_of(membership.organization_id, connection.connected_by, yourself=membership.user_id)
        return f"{shown_time(connection.connected_at)}, by {who}"


def build_app(connect: ConnectApp) -> ASGIApp:
    """Assemble the routes and what guards them."""
    https = urlsplit(connect.public_url).scheme == "https"
    host = urlsplit(connect.public_url).hostname or ""
    # What waits for Vanta or for the login must not take the threads of everybody else.
    for_vanta, for_login = CapacityLimiter(MOST_WAITING), CapacityLimiter(MOST_WAITING)
    guarded = Router(
        [
            Route("/vanta/install", connect.install, methods=["GET"]),
            Route("/vanta/callback", _limited(connect.callback, for_vanta), methods=["GET"]),
            Route("/orgs/{slug}/vanta", connect.status, methods=["GET"]),
            Route("/orgs/{slug}/vanta", _limited(connect.change, for_vanta), methods=["POST"]),
            Route("/auth/login", _limited(connect.begin_login, for_login), methods=["GET"]),
            Route("/auth/callback", _limited(connect.finish_login, for_login), methods=["GET"]),
            Route("/auth/logout", _limited(connect.logout, for_login), methods=["POST"]),
            Route("/auth/logout", connect.logged_out, methods=["GET"]),
            Mount("/static", StaticFiles(directory=pages.STATIC)),
        ],
        redirect_slashes=False,  # such a redirect is built from the request's own Host
        middleware=[
            Middleware(
                TrustedHostMiddleware,
                allowed_hosts=_LOOPBACK_HOSTS if is_loopback(connect.public_url) else [host],
                www_redirect=False,
            )
        ],
    )
    application = Starlette(
        # A load balancer may call the first by any name.
        routes=[Route("/healthz", connect.health, methods=["GET"]), Mount("/", guarded)],
        exception_handlers={
            HTTPException: _http_problem,
            LoginUnavailable: _unavailable,
            SourceError: _unavailable,
            LedgerError: _unavailable,
            UnusablePartitionKey: _unusable_slug,
            SessionEnded: _signed_out,
            psycopg.Error: _unavailable,
            Exception: _unforeseen,
        },
    )
    application.router.redirect_slashes = False
    origins = {origin_of(connect.office.vanta.vanta_app_url), origin_of(connect.login.issuer)}
    return Guard(application, headers=security_headers(forms_lead_to=origins, https=https), problem=pages.problem)


def _limited(handler: Handler, limiter: CapacityLimiter) -> AsyncHandler:
    """Run a handler in one of a few threads of its own kind; whoever finds them all taken is told so at once."""

    @wraps(handler)
    async def limited(request: Request) -> Response:
        if limiter.available_tokens < 1:
            return pages.problem(503)
        return await to_thread.run_sync(handler, request, limiter=limiter)

    return limited


def _consent_failed(error: Exception, answer: Answer, session: WebSession, membership: Membership) -> Response:
    """Tell the person what became of the consent, in a status that a monitor understands."""
    title, text, status = "Vanta was not connected", "Please start again.", 400
    if answer.error == "access_denied":
        title, text, status = "You did not allow it", "Nothing was connected, and nothing was changed.", 200
    elif isinstance(error, Transient):
        title, text, status = "Vanta does not answer right now", "Please start again in a few minutes.", 503
    elif isinstance(error, TooManyAttempts):
        text, status = f"{_sentence(error)} This keeps Vanta reachable for everybody.", 429
    elif isinstance(error, NoLongerAllowed):
        return pages.refusal("not_an_admin", then=_status_path(membership.slug), csrf=_csrf(session))
    elif isinstance(error, GrantRefused):
        text = "Vanta did not accept its own answer any more; perhaps it took too long. Please start again."
    elif isinstance(error, VantaError):
        log.error("a consent failed: %s", error)
        text, status = "Vanta refused for a reason that Sym's team has to look into. Please ask them.", 502
    elif isinstance(error, ConsentError):
        text = _sentence(error)
    step = pages.Step("Back to the connection", _status_path(membership.slug))
    return pages.message(title, text, status=status, step=step, csrf=_csrf(session))


def _sentence(error: ConsentError) -> str:
    return f"{str(error)[0].upper()}{str(error)[1:]}."


def _http_problem(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette's signature
    status = error.status_code if isinstance(error, HTTPException) else 500
    return pages.problem(status if status in pages.PROBLEMS else 400)


def _signed_out(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette's signature
    """Answer somebody who signed out, or in again, in another tab at this very moment."""
    return pages.not_signed_in()


def _unforeseen(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette's signature
    """Show the page; Starlette raises the error again, and the guard logs where it was."""
    return pages.problem(500)


def _unavailable(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette's signature
    """Answer for a part that does not work now; this project's own errors have texts that are safe to log."""
    log.error("%s", error if is_own(error) else f"the pipeline's own database failed ({type(error).__name__})")
    return pages.problem(503)


def _unusable_slug(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette's signature
    log.error("%s", error)
    text = "Sym's team has to change its short name first. Please ask them."
    return pages.message("This organization cannot be connected yet", text, status=409)


def _redirect(url: str) -> Response:
    return RedirectResponse(url, status_code=SEE_OTHER)


def _login_path(then: str) -> str:
    return f"/auth/login?next={quote(then, safe='')}"


def _status_path(slug: str) -> str:
    return f"/orgs/{quote(slug, safe='')}/vanta"


def _parameter(request: Request, name: str) -> str:
    """Return a query parameter that was given once and is not absurdly long; an empty string otherwise."""
    values = request.query_params.getlist(name)
    return values[0] if len(values) == 1 and len(values[0]) <= LONGEST_PARAMETER else ""


def _form(request: Request) -> dict[str, str]:
    try:
        return dict(parse_qsl(request.scope["symvanta.body"].decode(), max_num_fields=10))
    except ValueError:
        return {}


def _csrf(session: WebSession, membership: Membership | None = None) -> str:
    """Derive a form's token from the session's secret id, and from the organization that the form is about, if any."""
    about = b"" if membership is None else membership.organization_id.encode()
    return hmac.digest(session.id.encode(), b"connect app: form token " + about, hashlib.sha256).hex()


def _matches(form: dict[str, str], token: str) -> bool:
    return hmac.compare_digest(form.get("csrf", "").encode(), token.encode())


def _is_foreign(request: Request) -> bool:
    """Tell whether the browser says that another site's page sent this.

    The Origin header is of no use here: with the policy "no-referrer" browsers send "null" for our own pages, too.
    """
    return request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
