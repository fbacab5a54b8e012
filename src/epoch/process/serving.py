"""Serves until the process is told to stop."""

from __future__ import annotations

import asyncio
import resource
import signal
from functools import partial
from typing import Final

import uvloop

from epoch import log
from epoch.app import App
from epoch.auth.guard import Guard
from epoch.config import Settings, SettingsError
from epoch.http.allocator import Allocator
from epoch.http.forwarded import Proxies
from epoch.http.head import Limits
from epoch.http.listener import Service
from epoch.http.message import Request
from epoch.http.shared import Timeouts
from epoch.http.tls import Tls
from epoch.metrics import metrics
from epoch.process import signals
from epoch.process.stores import open_store, warn_of_unread
from epoch.process.supervisor_link import SupervisorLink
from epoch.upload.session_store import read_secret

API_VERSION: Final = ("Docker-Distribution-API-Version", "registry/2.0")


def run(settings: Settings, parent: SupervisorLink | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then end in order; returns the exit code.

    `parent`: of several processes that share the port, each of which serves in this way.
    """
    log.configure(settings.log_level)
    _raise_descriptor_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, parent))


async def _serve(settings: Settings, parent: SupervisorLink | None) -> int:
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
        warn_of_unread(settings.store)
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
        proxies=Proxies(http.trusted_proxies) if http.trusted_proxies else None,
    )


def _access(
    request: Request | None, peer: str, status: int, received: int, sent: int, seconds: float
) -> None:
    if request is None:
        log.access("-", "-", status, received, sent, seconds, peer)
        return
    metrics.request(request.endpoint, request.method, status)
    agent = request.headers.get("user-agent", "")
    log.access(
        request.method,
        request.path,
        status,
        received,
        sent,
        seconds,
        peer,
        agent,
        user=request.user,
        id=request.id,
    )
