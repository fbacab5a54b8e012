"""The one place that builds the parts of a server, joins them, and takes them down again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import unquote

from epoch import log
from epoch._fastio import hash_seconds
from epoch.auth.guard import Guard
from epoch.config import Settings
from epoch.download.blobs import BlobDownloads
from epoch.errors import Code, RegistryError
from epoch.garbage.collector import Collector
from epoch.garbage.pins import TIMES, Pins, Times
from epoch.garbage.references import References
from epoch.garbage.schedule import Schedule
from epoch.http.cors import Cors
from epoch.http.message import Request, Response
from epoch.http.routes import Endpoint, Route, match
from epoch.metrics import Buffers, metrics, render
from epoch.registry.catalog import Catalog
from epoch.registry.dashboard import Dashboard
from epoch.registry.manifests import Manifests
from epoch.registry.membership import Membership
from epoch.registry.referrers import Referrers
from epoch.registry.tags import Tags
from epoch.store.base import Store, StoreError
from epoch.store.readiness import Readiness
from epoch.upload.blobs import BlobUploads
from epoch.upload.session_store import EXPIRED

_TEXT: Final = [("Content-Type", "text/plain; charset=utf-8")]

Action = Callable[[Request, Route], Awaitable[Response]]


class App:
    """A store, and the handlers over it, reachable by endpoint and method."""

    def __init__(self, settings: Settings, store: Store, times: Times = TIMES) -> None:
        self.store = store
        self.totals: Callable[[], Awaitable[bytes | None]] | None = None
        """The metrics of all processes that share the port, where there are others."""
        self.guard = Guard(settings.auth)
        self.readiness = Readiness(store)
        origins = settings.http.cors_origins
        self._cors = Cors(origins) if origins else None
        self._failures = log.Bounded()
        pins = Pins(store, times)
        membership = Membership(store)
        link = membership.add if self.guard.limits_pulls else None
        uploads = BlobUploads(store, settings.upload, membership.has, link, pins)
        self._uploads = uploads
        self._dashboard = Dashboard(store)
        references, referrers, catalog = References(store), Referrers(store), Catalog(store)
        downloads = BlobDownloads(
            store, references.search, membership.has, redirect=settings.store.redirect, pins=pins
        )
        max_manifest = settings.http.max_manifest
        manifests = Manifests(
            store,
            referrers,
            catalog,
            self._dashboard,
            max_manifest,
            pins,
            membership,
            sparse=settings.registry.sparse_indexes,
        )
        tags = Tags(store, catalog)
        self._schedule = Schedule(make_collector(settings, store), settings.garbage.interval)
        metrics.buffers = self._buffers
        metrics.hash_seconds = hash_seconds
        self._actions: dict[Endpoint, dict[str, Action]] = {
            Endpoint.PING: {"GET": _ping},
            Endpoint.TOKEN: {
                "GET": lambda request, _: self.guard.token(request),
                "POST": lambda request, _: self.guard.token(request),
            },
            Endpoint.HEALTH: {"GET": _health},
            Endpoint.READY: {"GET": lambda _request, _to: self._ready()},
            Endpoint.METRICS: {"GET": lambda _request, _to: self._metrics()},
            Endpoint.BLOB: {
                "GET": lambda request, to: downloads.get(request, to.name, to.reference),
                "PUT": lambda request, to: uploads.put(request, to.name, to.reference),
                "DELETE": lambda request, to: downloads.delete(request, to.name, to.reference),
            },
            Endpoint.UPLOADS: {"POST": lambda request, to: uploads.post(request, to.name)},
            Endpoint.UPLOAD: {
                "GET": lambda request, to: uploads.status(request, to.name, to.reference),
                "PATCH": lambda request, to: uploads.patch(request, to.name, to.reference),
                "PUT": lambda request, to: uploads.put_upload(request, to.name, to.reference),
                "DELETE": lambda request, to: uploads.cancel(request, to.name, to.reference),
            },
            Endpoint.MANIFEST: {
                "GET": lambda request, to: manifests.get(request, to.name, to.reference),
                "PUT": lambda request, to: manifests.put(request, to.name, to.reference),
                "DELETE": lambda request, to: manifests.delete(request, to.name, to.reference),
            },
            Endpoint.TAGS: {"GET": lambda request, to: tags.get(request, to.name)},
            Endpoint.REFERRERS: {
                "GET": lambda request, to: referrers.get(request, to.name, to.reference)
            },
            Endpoint.CATALOG: {"GET": lambda request, _: catalog.get(request)},
        }

    async def handle(self, request: Request) -> Response:
        """Answer one request: the handler of the HTTP connections."""
        try:
            route = _route(request.path)
            request.endpoint = route.endpoint.name.lower()
            # Browsers send a preflight without credentials.
            response = None if self._cors is None else self._cors.preflight(request)
            if response is None:
                await self.guard.authorize(request, route)
                response = await self._action(route, request.method)(request, route)
        except RegistryError as error:
            self._allow_reading(error, request)
            raise
        except StoreError as error:
            self._failures.error(
                "the store failed",
                error,
                endpoint=request.endpoint,
                method=request.method,
                name=route.name,
                id=request.id,
            )
            refusal = _unavailable(error)
            self._allow_reading(refusal, request)
            raise refusal from error
        if self._cors is not None:
            response.headers += self._cors.fields(request)
        return response

    def _allow_reading(self, error: RegistryError, request: Request) -> None:
        """Let a page of another origin see why it was refused, where it may."""
        if self._cors is not None:
            error.headers += tuple(self._cors.fields(request))

    def start(self) -> None:
        """Start what runs beside the requests."""
        self._schedule.start()

    async def close(self) -> None:
        """Stop what runs beside the requests, then close the store."""
        await self._schedule.close()
        await self.readiness.close()
        await self._uploads.close()
        await self._dashboard.close()
        self.guard.close()
        await self.store.close()

    async def _metrics(self) -> Response:
        content_type, own = render()
        body = await self.totals() if self.totals is not None else None
        return Response(200, [("Content-Type", content_type)], body or own)

    async def _ready(self) -> Response:
        if await self.readiness.holds():
            return Response(200, _TEXT.copy(), b"ok\n")
        return Response(503, _TEXT.copy(), b"not ready\n")

    def _action(self, route: Route, method: str) -> Action:
        actions = self._actions[route.endpoint]
        action = actions.get("GET" if method == "HEAD" else method)
        if action is None:
            allowed = [*actions, "HEAD"] if "GET" in actions else [*actions]
            raise RegistryError(
                Code.UNSUPPORTED,
                f"{method} is not supported here",
                headers=(("Allow", ", ".join(allowed)),),
            )
        return action

    def _buffers(self) -> Buffers:
        budget = self._uploads.budget
        return Buffers(budget.pool.budget, budget.pool.lent, budget.pool.kept, budget.waiting)


def make_collector(settings: Settings, store: Store) -> Collector:
    """A collection with these settings, run by a server or once."""
    return Collector(store, min_age=settings.garbage.min_age, session_lifetime=EXPIRED)


def _route(path: str) -> Route:
    try:
        decoded = unquote(path, errors="strict") if "%" in path else path
    except UnicodeDecodeError:
        raise RegistryError(Code.BAD_REQUEST, "the path is not percent-encoded UTF-8") from None
    route = match(decoded)
    if route is None:
        raise RegistryError(Code.UNSUPPORTED, "there is no such endpoint", status=404)
    return route


def _unavailable(error: StoreError) -> RegistryError:
    """What the client is told: nothing of the store, which is the operator's business."""
    if error.retry_after is None:
        return RegistryError(Code.UNAVAILABLE, "the registry's storage failed")
    return RegistryError(
        Code.UNAVAILABLE,
        "the registry's storage does not answer; try again later",
        headers=(("Retry-After", str(round(error.retry_after) or 1)),),
    )


async def _ping(_request: Request, _route: Route) -> Response:
    return Response(200, [("Content-Type", "application/json")], b"{}")


async def _health(_request: Request, _route: Route) -> Response:
    return Response(200, _TEXT.copy(), b"ok\n")
