"""One request: who asks, what may be done, and the answers that are the same everywhere. The guard of every route stands here."""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from tidings.clock import now
from tidings.dashboard.auth import TokenAuth, User, user_of
from tidings.dashboard.outage import DatabaseDown
from tidings.dashboard.params import BadParameter
from tidings.dashboard.payload import Redaction
from tidings.dashboard.render import environment
from tidings.errors import ConfigurationError, TidingsError

if TYPE_CHECKING:
    from tidings.dashboard.app import Settings

__all__ = ["CSRF", "Call", "Later", "Problem", "Role", "body_of", "cursor", "guarded", "problem", "remember"]

logger = logging.getLogger("tidings.dashboard")

Role = Literal["public", "viewer", "operator"]
Endpoint = Callable[["Call"], Awaitable[Response]]

#: The cookie whose value every form repeats: another site can neither read nor set it.
CSRF = "tidings_csrf"

#: Most bytes of a request.
_BODY = 8_000_000


class Later(BackgroundTask):
    """The rest of an action, after the answer; an error is the log's and the audit's."""

    async def __call__(self) -> None:
        try:
            await super().__call__()
        except Exception:
            # Whatever it is: the answer is given, and nobody is left to whom it could be raised.
            logger.exception("an action that went on in the background failed")


class Problem(Exception):
    """Ends a request with a status and a sentence."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = dict(headers or {})


@dataclass(slots=True)
class Call:
    """A request with what belongs to it.

    Attributes:
        seen: what was the newest in the store before the page was made; its stream goes on from there.
    """

    request: Request
    settings: Settings
    user: User | None
    token: str
    form: dict[str, str] = field(default_factory=dict)
    seen: str = ""

    @property
    def base(self) -> str:
        """The path under which the dashboard is mounted, without a slash at its end."""
        return str(self.request.scope.get("root_path", "")).rstrip("/")

    @property
    def here(self) -> str:
        """This page's address, without what tells of an action that was done."""
        kept = [(name, value) for name, value in self.request.query_params.multi_items() if name != "did"]
        return str(self.request.scope["path"]) + (f"?{urlencode(kept, errors='replace')}" if kept else "")

    @property
    def desk(self) -> Any:
        """What there is to look at."""
        return self.settings.desk

    @property
    def may_act(self) -> bool:
        """Whether this user may act here."""
        return self.user is not None and self.user.may("operator") and not self.settings.read_only

    @property
    def redaction(self) -> Redaction:
        """What is hidden from this user."""
        return Redaction(self.settings.redact, () if self.user is None else self.user.roles)

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """Return a page."""
        text = environment().get_template(template).render(
            base=self.base, call=self, user=self.user, now=now(), csrf=self.token, path=self.request.scope["path"][len(self.base) :] or "/",
            given=dict(self.request.query_params), read_only=self.settings.read_only, **values,
        )  # fmt: skip
        return HTMLResponse(text, status)


def guarded(endpoint: Endpoint, role: Role, settings: Settings, *, api: bool) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers requests of a route: only for those who may, and with every error as a sentence.

    Args:
        role: who may; `operator` routes are closed where the dashboard is read-only.
        api: answers are JSON, and errors `application/problem+json`.
    """

    async def answer(request: Request) -> Response:
        token = request.cookies.get(CSRF, "")
        fresh = not (token.isascii() and token.isalnum() and len(token) == 64)
        call = Call(request, settings, None, secrets.token_hex(32) if fresh else token)
        try:
            call.user = await user_of(settings.auth, request)
            _refuse(call, role, api)
            if request.method not in ("GET", "HEAD"):
                await _refuse_forged(call, api, fresh)
            if role != "public":
                await settings.desk.open()
            response = await endpoint(call)
        except DatabaseDown as error:
            logger.warning("%s %s: %s", request.method, request.scope["path"], error)
            response = _failed(call, error, api)
        except (Problem, HTTPException, BadParameter, TidingsError) as error:
            response = _failed(call, error, api)
        except ClientDisconnect:
            raise
        except Exception as error:
            # Whatever it is: without this, it would be the application's that the dashboard is mounted in.
            logger.exception("%s %s failed", request.method, request.scope["path"])
            response = _failed(call, error, api)
        if fresh and not api and role != "public":
            remember(response, CSRF, call.token, call)
        return response

    return answer


def _refuse(call: Call, role: Role, api: bool) -> None:
    auth = call.settings.auth
    if role == "public":
        return
    if call.user is None:
        if isinstance(auth, TokenAuth) and not api and call.request.method == "GET":
            raise Problem(303, "log in", {"location": f"{call.base}/login"})
        challenge = getattr(auth, "challenge", None) or ("Bearer" if isinstance(auth, TokenAuth) else None)
        sentence = (
            "The dashboard is open to this machine only, by its own address, with nothing between, because it was given no auth: "
            "service.dashboard(auth=...), or tidings dashboard --token ..."
            if auth is None
            else "Nobody knows you: log in, or give a token."
        )
        raise Problem(401, sentence, {"www-authenticate": challenge} if challenge else None)
    if role == "operator" and call.settings.read_only:
        raise Problem(403, "This dashboard is read-only: act in another one, or with the command line.")
    if not call.user.may(role):
        raise Problem(403, f"{call.user.name} is no {role}: ask for the role, or somebody who has it.")


async def _refuse_forged(call: Call, api: bool, fresh: bool) -> None:
    """Refuse what another site makes the user's browser send."""
    request = call.request
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        raise Problem(403, f"This request comes from another site (Sec-Fetch-Site: {site}): act from the dashboard itself.")
    origin = request.headers.get("origin")
    # Pages are served with no-referrer, under which browsers send the Origin `null` with their own forms: these have the token.
    if origin is not None and (api or origin != "null") and urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower():
        raise Problem(403, f"This request comes from another origin ({origin[:200]}): act from the dashboard itself.")
    if api:
        # No form can send JSON, and a script of another origin would have to ask first, which nobody answers.
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Problem(415, f"Content-Type: {kind or 'nothing'} is not understood: send application/json.")
        return
    call.form = await form_of(request)
    given = call.form.get("csrf", "")
    if fresh or not hmac.compare_digest(given.encode("utf-8", "replace"), call.token.encode()):
        raise Problem(403, "The form is too old, or is not ours (CSRF): load its page again, with cookies, and send it from there.")


async def body_of(request: Request) -> bytes:
    """Return the body of a request.

    Raises:
        Problem: it is too large.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _BODY:
            raise Problem(413, f"The request is larger than {_BODY:,} bytes.")
        parts.append(part)
    return b"".join(parts)


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a form; of several of one name, the last."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Problem(415, f"Content-Type: {kind or 'nothing'} is not understood: send a form.")
    try:
        text = (await body_of(request)).decode("ascii")
        return dict(parse_qsl(text, keep_blank_values=True, errors="replace", max_num_fields=50))
    except ValueError:
        raise Problem(400, "The form cannot be understood.") from None


def _failed(call: Call, error: Exception, api: bool) -> Response:
    status, sentence, headers = 500, "Something went wrong here; the server's log says what.", {}
    if isinstance(error, Problem):
        status, sentence, headers = error.status, str(error), error.headers
    elif isinstance(error, HTTPException):
        status, sentence, headers = error.status_code, str(error.detail), dict(error.headers or {})
    elif isinstance(error, BadParameter):
        status, sentence = 400, str(error)
    elif isinstance(error, ConfigurationError):
        status, sentence = (
            (500, "The dashboard is put together wrongly; the server's log says how.") if call.user is None else (400, str(error))
        )
        if call.user is None:
            logger.error("%s", error)
    elif isinstance(error, TidingsError):
        status, sentence = 503, str(error)
    if status == 303:
        return RedirectResponse(headers["location"], 303)
    response = problem(status, sentence) if api else call.page("error.html", status, title=HTTPStatus(status).phrase, sentence=sentence)
    for name, value in headers.items():
        response.headers[name] = value
    return response


def problem(status: int, sentence: str) -> Response:
    """Return an error as RFC 9457 has it."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": sentence}
    return JSONResponse(body, status, media_type="application/problem+json")


def remember(response: Response, name: str, value: str, call: Call, seconds: int | None = None) -> None:
    """Set a cookie that only this dashboard gets, and no script."""
    secure = call.settings.secure_cookies or call.request.url.scheme == "https"
    response.set_cookie(name, value, path=f"{call.base}/", httponly=True, samesite="strict", secure=secure, max_age=seconds)


def cursor(at: datetime | None, last: str) -> str | None:
    """Return the place in a list by time, as a text."""
    return None if at is None else f"{at.isoformat()}~{last}"
