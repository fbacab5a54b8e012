"""The aiobotocore client: one session and one client per process, told not to touch a body."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any, Final

import botocore.handlers
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore import UNSIGNED

from epoch.config import S3Settings
from epoch.store.s3_http import USER_AGENT, HttpSession

_AWS: Final = ".amazonaws.com"
_DEFAULT_REGION: Final = "us-east-1"
"""What stores that have no regions take a signature for."""


async def open_client(settings: S3Settings, stack: AsyncExitStack) -> Any:
    """A client for `settings`, closed by `stack`. Blocks the loop for some 60 ms, once."""
    aws = settings.endpoint.partition(":")[0].endswith(_AWS)
    config = AioConfig(
        http_session_cls=HttpSession,
        # SigV4 also for presigned URLs: botocore signs those by V2 in us-east-1. No secret: no
        # signature, as the Go server has it.
        signature_version="s3v4" if settings.secret_key else UNSIGNED,
        # Built anew for every request otherwise: 100 us.
        user_agent=USER_AGENT,
        # Anything but these two and `payload_signing_enabled` either reads the body a second time
        # or sends it as aws-chunked with a trailer, which Google Cloud Storage refuses.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # One attempt: `s3_retry` repeats calls, where a lost answer can be looked into first.
        retries={"mode": "standard", "total_max_attempts": 1},
        ignore_configured_endpoint_urls=True,
        s3={
            "payload_signing_enabled": False,
            "addressing_style": "auto" if aws else "path",
        },
    )
    scheme = "https" if settings.secure else "http"
    client = await stack.enter_async_context(
        AioSession().create_client(
            "s3",
            region_name=settings.region or _region_of(settings.endpoint) or _DEFAULT_REGION,
            endpoint_url=None if aws else f"{scheme}://{settings.endpoint}",
            use_ssl=settings.secure,
            aws_access_key_id=settings.access_key,
            aws_secret_access_key=settings.secret_key or "unsigned",
            config=config,
        )
    )
    # aiohttp waits for "100 Continue" without limit. To be taken away from where it was put:
    # handlers of more specific events run before it.
    client.meta.events.unregister("before-call.s3", botocore.handlers.add_expect_header)
    client.meta.events.register_last("before-parameter-build.s3", _stay)
    return client


def _stay(context: dict[str, Any], **_: Any) -> None:
    """Tell botocore that this call was redirected before: it then does not go to another host."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _region_of(endpoint: str) -> str | None:
    """The region that an AWS host name tells: `s3.eu-west-1.amazonaws.com`."""
    labels = endpoint.partition(":")[0].removesuffix(_AWS).split(".")
    return labels[1] if endpoint.startswith("s3.") and len(labels) == 2 else None
