"""The table of all routes: what is there, who may, and what answers. Guards, the OpenAPI document and the tests go by it."""

from __future__ import annotations

from dataclasses import dataclass

from tidings.dashboard import api, live, pages, putting_right, single
from tidings.dashboard.actions import ACTIONS
from tidings.dashboard.call import Endpoint, Role

__all__ = ["ROUTES", "Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """One route.

    Attributes:
        path: from where the dashboard is mounted; `{name}` stands for a part.
        role: who may.
        api: whether it answers JSON.
    """

    path: str
    endpoint: Endpoint
    role: Role = "viewer"
    method: str = "GET"
    api: bool = False


ROUTES = (
    Place("/", pages.overview),
    Place("/events", pages.events),
    Place("/events/find", single.find),
    Place("/events/{event_id}", single.event),
    Place("/events/{event_id}/data", single.event_data),
    Place("/subscriptions", pages.subscriptions),
    Place("/subscriptions/{number}", pages.subscription),
    Place("/failures", pages.failures),
    Place("/failures/{fingerprint}/{number}", pages.group),
    Place("/deliveries/{number}", single.delivery),
    Place("/deliveries/{number}/data", single.delivery_data),
    Place("/keys", pages.keys),
    Place("/scheduled", pages.scheduled),
    Place("/scheduled/{event_id}", single.waiting),
    Place("/topics", pages.topics),
    Place("/workers", pages.workers),
    Place("/audit", pages.audit),
    Place("/actions/{action}", putting_right.confirm, "operator"),
    Place("/actions/{action}", putting_right.act, "operator", "POST"),
    Place("/login", putting_right.login_page, "public"),
    Place("/login", putting_right.login, "public", "POST"),
    Place("/logout", putting_right.logout, "viewer", "POST"),
    Place("/live", live.live),
    Place("/api/openapi.json", api.openapi, api=True),
    *(Place(f"/api{read.path}", read.endpoint, api=True) for read in api.READS),
    *(Place(f"/api/actions/{name}", api.acting(action), "operator", "POST", api=True) for name, action in ACTIONS.items()),
)
