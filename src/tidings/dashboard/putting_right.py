"""Acting: a page that says what would happen, the form that does it, and logging in to be allowed to."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from sqlalchemy.exc import DBAPIError
from starlette.responses import RedirectResponse, Response

from tidings.dashboard.actions import ACTIONS, Action, Done
from tidings.dashboard.auth import COOKIE, SESSION, TokenAuth
from tidings.dashboard.call import CSRF, Call, Later, Problem, remember
from tidings.dashboard.outage import reaching
from tidings.dashboard.params import read, refuse_unknown
from tidings.dashboard.payload import Shown
from tidings.stores.sql.errors import may_not_write, said_by

__all__ = ["act", "confirm", "login", "login_page", "logout", "perform"]

#: What is asked for in the form; everything else says what is meant, and has been said already.
ASKED = ("rate", "reason", "whole", "data")

#: What else stands in our links and forms.
_OURS = ("csrf", "back")


def _action(call: Call) -> Action:
    name = call.request.path_params["action"]
    if name not in ACTIONS:
        raise Problem(404, f"There is no action {name!r}: there are {', '.join(ACTIONS)}.")
    return ACTIONS[name]


def _names(action: Action) -> list[str]:
    return [param.name for param in action.params]


async def confirm(call: Call) -> Response:
    """Say what an action would do, and ask whether to do it."""
    action = _action(call)
    query = call.request.query_params
    refuse_unknown(query, _names(action), _OURS)
    chosen = read([param for param in action.params if param.name not in ASKED], query, text=True)
    values = {param.name: param.default for param in action.params} | chosen
    planned = await action.plan(call.desk, values)
    asked = [param for param in action.params if param.name in ASKED]
    data = None
    if action.name == "edit":
        found = await call.desk.delivery(values["number"])
        shown = None if found is None else Shown.of(found.data, found.name, call.redaction)
        if shown is not None and (shown.redacted or not shown.json):
            raise Problem(403, "Fields of this event are hidden from you, or it is no JSON: what cannot be seen cannot be edited.")
        data = None if shown is None else shown.text
    # What stands in the form goes on as it was given, not as it was read.
    meant = {name: value for name, value in query.items() if name in chosen and value}
    return call.page(
        "confirm.html", action=action, planned=planned, meant=meant, asked=asked, data=data, back=_back(call, query.get("back", ""))
    )


async def act(call: Call) -> Response:
    """Do it, and go back to where the way led from."""
    action = _action(call)
    meant = parse_qsl(call.form.get("meant", "").removeprefix("?"), keep_blank_values=True, errors="replace")
    given = {name: value for name, value in [*call.form.items(), *meant] if name not in (*_OURS, "meant")}
    refuse_unknown(given, _names(action))
    given.setdefault("all", "false")
    values = read(action.params, given, text=True)
    done = await perform(call, action, values)
    if not done.known:
        # Meanwhile somebody else did it, or it was handled.
        raise Problem(404, done.sentence)
    back = _back(call, call.form.get("back", "")) or f"{call.base}/audit"
    number = f"did={done.entry}" if done.entry is not None else ""
    joined = f"{back}{'&' if '?' in back else '?'}{number}" if number else f"{call.base}/audit"
    return RedirectResponse(joined, 303, background=None if done.later is None else Later(done.later))


async def perform(call: Call, action: Action, values: dict[str, object]) -> Done:
    """Run an action for this call's user.

    Raises:
        Problem: what would be edited is hidden from the user, or the database may only be read.
        DatabaseDown: the database cannot be reached.
    """
    assert call.user is not None
    if action.name == "edit" and call.redaction:
        found = await call.desk.delivery(values["number"])
        if found is not None and Shown.of(found.data, found.name, call.redaction).redacted:
            raise Problem(403, "Fields of this event are hidden from you: what cannot be seen cannot be edited.")
    try:
        with reaching(call.desk.store):
            return await action.run(call.desk, values, call.user.name)
    except DBAPIError as error:
        if not may_not_write(error):
            raise
        raise Problem(
            403,
            f"The database lets this dashboard change nothing: {said_by(error)}. Give its user the right to write, or offer it --read-only.",
        ) from error


async def login_page(call: Call) -> Response:
    """Ask for a token."""
    if not isinstance(call.settings.auth, TokenAuth):
        raise Problem(404, "There is nothing to log in to here.")
    response = call.page("login.html", wrong=False)
    remember(response, CSRF, call.token, call)
    return response


async def login(call: Call) -> Response:
    """Begin a session, if the token is right."""
    auth = call.settings.auth
    if not isinstance(auth, TokenAuth):
        raise Problem(404, "There is nothing to log in to here.")
    token = call.form.get("token", "").strip()
    if auth.user(token) is None:
        return call.page("login.html", 401, wrong=True)
    response = RedirectResponse(f"{call.base}/", 303)
    remember(response, COOKIE, auth.session(token), call, SESSION)
    return response


async def logout(call: Call) -> Response:
    """End the session."""
    response = RedirectResponse(f"{call.base}/login", 303)
    response.delete_cookie(COOKIE, path=f"{call.base}/")
    return response


def _back(call: Call, given: str) -> str:
    """Return where to go back to, if that is a page of ours; nothing else is followed."""
    try:
        parts = urlsplit(given)
    except ValueError:
        return ""
    inside = parts.path.startswith(f"{call.base}/") and not given.startswith("//") and "\\" not in given
    return given if inside and not parts.scheme and not parts.netloc and given.isprintable() and len(given) < 2000 else ""
