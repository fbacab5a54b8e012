"""The one place that builds the parts of a server, joins them, and takes them down again."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final
from urllib.parse import unquote

import uvloop

from epoch import log, signals
from epoch._fastio import hash_seconds
from epoch.auth.guard import Guard
from epoch.config import Settings, SettingsError, StoreSettings
from epoch.download.blobs import Blobs as Downloads
from epoch.environment import unread
from epoch.errors import Code, RegistryError
from epoch.http.allocator import Allocator
from epoch.http.cors import Cors
from epoch.http.head import Limits
from epoch.http.listener import Service
from epoch.http.message import Request, Response
from epoch.http.routes import Endpoint, Route, match
from epoch.http.shared import Timeouts
from epoch.http.tls import Tls
from epoch.metrics import Buffers, metrics, render
from epoch.registry.catalog import Catalog
from epoch.registry.dashboard import Dashboard
from epoch.registry.garbage.collector import Collector
from epoch.registry.garbage.report import Progress
from epoch.registry.garbage.report import Report as Report
from epoch.registry.garbage.schedule import Schedule
from epoch.registry.manifests import Manifests
from epoch.registry.membership import Membership
from epoch.registry.presence import References
from epoch.registry.referrers import Referrers
from epoch.registry.tags import Tags
from epoch.registry.verify import Damage as Damage
from epoch.registry.verify import Verified as Verified
from epoch.registry.verify import Verifier
from epoch.store.base import Store, StoreError
from epoch.store.pins import TIMES, Pins, Times
from epoch.store.readiness import Readiness
from epoch.upload.blobs import Blobs as Uploads
from epoch.upload.session_store import EXPIRED, read_secret
from epoch.workers.parent import Parent

API_VERSION: Final = ("Docker-Distribution-API-Version", "registry/2.0")

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
        uploads = Uploads(store, settings.upload, membership.has, link, pins)
        self._uploads = uploads
        self._dashboard = Dashboard(store)
        references, referrers, catalog = References(store), Referrers(store), Catalog(store)
        downloads = Downloads(
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
        self._schedule = Schedule(_collector(settings, store), settings.garbage.interval)
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
        """Begin what runs behind the requests."""
        self._schedule.start()

    async def close(self) -> None:
        """End what runs behind the requests, then the store."""
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


def run(settings: Settings, parent: Parent | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then end in order; returns the exit code.

    `parent`: of several processes that share the port, each of which serves in this way.
    """
    log.configure(settings.log_level)
    _raise_descriptor_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, parent))


async def _serve(settings: Settings, parent: Parent | None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    store = open_store(settings.store)
    try:
        await store.check()
        await read_secret(store)
        app = App(settings, store)
        if parent is not None:
            parent.start(stop.set)
            app.totals = parent.totals
        service = make_service(settings, app)
        tls = Tls(settings.tls) if settings.tls else None
        signals.handle(loop.add_signal_handler, partial(_reload, app.guard, tls))
        host, port = await service.listen(
            settings.http.host, settings.http.port, tls, reuse_port=parent is not None
        )
        service.allocator = Allocator()
    except BaseException:
        await store.close()
        raise
    if parent is None or parent.first:
        app.guard.announce()
        _warn_of_unread(settings.store)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    (parent.ready if parent else log.ready)(address, store.description)
    app.start()
    await stop.wait()
    app.readiness.end()
    log.info("stopping", requests=len(service.tasks), grace=settings.http.shutdown_grace)
    stop.clear()
    closing = asyncio.create_task(service.close(settings.http.shutdown_grace))
    impatient = asyncio.create_task(stop.wait())
    await asyncio.wait({closing, impatient}, return_when=asyncio.FIRST_COMPLETED)
    if not closing.done():
        log.warn("told to stop again: cutting the requests that still run")
        closing.cancel()
        await asyncio.wait({closing})
        await service.close(0)
    impatient.cancel()
    await app.close()
    log.info("stopped")
    return 0


def collect(settings: Settings, progress: Progress, *, dry_run: bool) -> Report | None:
    """Collect garbage once; what was done, or None where SIGTERM or SIGINT ended it before."""
    log.configure(settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_collect(settings, progress, dry_run))


async def _collect(settings: Settings, progress: Progress, dry_run: bool) -> Report | None:
    _warn_of_unread(settings.store)
    store = open_store(settings.store)
    try:
        await store.check()
        collector = _collector(settings, store)
        task = asyncio.create_task(collector.collect(progress, dry_run=dry_run))

        def stop() -> None:
            collector.stop()
            if not collector.sweeping:
                task.cancel()

        # A collection that is killed within a sweep leaves an announcement that holds up pushes.
        _when_told_to_end(stop)
        await asyncio.wait({task})
        return None if task.cancelled() or collector.stopped else task.result()
    finally:
        await store.close()


def _when_told_to_end(stop: Callable[[], object]) -> None:
    """Call `stop` on SIGTERM, SIGINT, and where the terminal is closed without nohup(1)."""
    add = asyncio.get_running_loop().add_signal_handler
    goes_on = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    signals.handle(add, (lambda: None) if goes_on else stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        add(number, stop)


def verify(
    settings: Settings,
    progress: Progress,
    found: Callable[[Damage], None],
    *,
    after: str,
    parallel: int,
    remove: bool,
) -> Verified:
    """Read all blobs and manifests back; `failure` says why it did not come to its end, by a
    signal or the store. `StoreError` where that cannot be opened."""
    log.configure(settings.log_level)

    async def run() -> Verified:
        _warn_of_unread(settings.store)
        store = open_store(settings.store)
        try:
            await _check_readable(store)
            verifier = Verifier(store, parallel=parallel, remove=remove)
            task = asyncio.create_task(verifier.run(after, progress, found))
            _when_told_to_end(task.cancel)
            try:
                await task
            except asyncio.CancelledError:
                verifier.report.failure = "told to stop before the end"
            except StoreError as error:
                verifier.report.failure = str(error)
            return verifier.report
        finally:
            await store.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


async def _check_readable(store: Store) -> None:
    try:
        await store.check()
    except StoreError as error:
        if not error.denied:  # a read-only copy can be verified too
            raise


def _collector(settings: Settings, store: Store) -> Collector:
    return Collector(store, min_age=settings.garbage.min_age, session_lifetime=EXPIRED)


def _reload(guard: Guard, tls: Tls | None) -> None:
    """Read again what can be read again: SIGHUP."""
    log.info("SIGHUP received: the certificate and the files with users, rules and keys are read")
    guard.reload()
    if tls is None:
        return
    try:
        tls.reload()
    except SettingsError as error:
        log.error("the certificate stays as it was", reason=error)
    else:
        log.info("certificate read again")


def _raise_descriptor_limit() -> None:
    """Take as many descriptors as we may, one for each client and each part under way: the soft
    limit of 1,024 is there for programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError) as error:  # macOS: not beyond kern.maxfilesperproc
        log.debug("the limit of descriptors stays as it was", limit=soft, reason=error)
    else:
        log.debug("limit of descriptors raised", before=soft, now=hard)


def _warn_of_unread(store: StoreSettings) -> None:
    """Say so where a bucket may have been meant and the directory is taken."""
    if store.s3 is None and (names := unread(os.environ)):
        log.warn(
            f"{', '.join(names)}: not read; set EPOCH_S3_* to store in a bucket",
            storing_in=store.data_dir,
        )


def open_store(settings: StoreSettings) -> Store:
    """The bucket where one is named, else the directory. S3's libraries are imported only then."""
    if settings.s3 is None:
        from epoch.store.directory import DirectoryStore

        return DirectoryStore(settings.data_dir, create=settings.create)
    from epoch.store.s3 import S3Store
    from epoch.store.s3_calls import Patience

    return S3Store(settings.s3, Patience(repeat=settings.patience))


def make_service(settings: Settings, app: App) -> Service:
    """The HTTP side, around the app."""
    http = settings.http
    return Service(
        app.handle,
        limits=Limits(http.max_head, http.max_url, http.max_headers),
        timeouts=Timeouts(
            head=http.head_timeout,
            idle=http.idle_timeout,
            body_idle=http.body_idle_timeout,
            min_rate=http.min_rate,
        ),
        max_body=settings.upload.max_blob,
        body_budget=http.body_budget,
        access_log=_access,
        headers=(API_VERSION,),
    )


def _access(
    request: Request | None, peer: str, status: int, received: int, sent: int, seconds: float
) -> None:
    if request is None:
        log.access("-", "-", status, received, sent, seconds, peer)
        return
    metrics.request(request.endpoint, request.method, status)
    agent = request.headers.get("user-agent", "")
    log.access(request.method, request.path, status, received, sent, seconds, peer, agent)


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
