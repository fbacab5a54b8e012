"""The few calls that stay with aiobotocore: copies.

To be imported where one of them is to be made, and not before: that takes 0.2 s and 20 MB. What
is frequent is signed and read by ourselves (`s3_calls`), over the same connections.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any, Final

import botocore.exceptions
import botocore.handlers
import botocore.parsers
from aiobotocore.awsrequest import AioAWSResponse
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore import UNSIGNED

from epoch.config import S3Settings
from epoch.store.s3.errors import NotS3, Refused
from epoch.store.s3.transport import USER_AGENT, HttpSession

_AWS: Final = ".amazonaws.com"


class BotocoreClient:
    """An aiobotocore client over connections of ours."""

    def __init__(self, settings: S3Settings, session: HttpSession) -> None:
        self._settings = settings
        self._session = session
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def call(self, method: str, parameters: dict[str, Any]) -> Any:
        """Call a method of the client. `Refused`, `NotS3`, or what aiohttp raises."""
        if self._client is None:
            self._client = await _open(self._settings, self._session, self._stack)
        try:
            return await getattr(self._client, method)(Bucket=self._settings.bucket, **parameters)
        except botocore.exceptions.ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            code = str(error.response.get("Error", {}).get("Code", ""))
            raise Refused(int(status), "" if code == str(status) else code) from error
        except botocore.parsers.ResponseParserError as error:
            raise NotS3 from error

    async def close(self) -> None:
        """Close the client; the connections stay."""
        await self._stack.aclose()


async def _open(settings: S3Settings, session: HttpSession, stack: AsyncExitStack) -> Any:
    """A client for `settings`, closed by `stack`. Blocks the loop for some 60 ms, once."""
    aws = settings.endpoint.partition(":")[0].endswith(_AWS)
    config = AioConfig(
        http_session_cls=lambda **_: _Session(session),
        # SigV4 wherever it may be asked for. No secret: no signature, as the Go server has it.
        signature_version="s3v4" if settings.secret_key else UNSIGNED,
        # Built anew for every request otherwise: 100 us.
        user_agent=USER_AGENT,
        # Anything but these two and `payload_signing_enabled` sends headers or trailers that
        # Google Cloud Storage refuses.
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
    client = await stack.enter_async_context(
        AioSession().create_client(
            "s3",
            region_name=settings.region,
            endpoint_url=None if aws else settings.url,
            use_ssl=settings.secure,
            aws_access_key_id=settings.access_key,
            aws_secret_access_key=settings.secret_key or "unsigned",
            config=config,
        )
    )
    # aiohttp waits for "100 Continue" without limit. To be taken away from where it was put:
    # handlers of more specific events run before it.
    client.meta.events.unregister("before-call.s3", botocore.handlers.add_expect_header)
    client.meta.events.register_last("before-parameter-build.s3", _suppress_region_redirect)
    return client


def _suppress_region_redirect(context: dict[str, Any], **_: Any) -> None:
    """Tell botocore that this call was redirected before: it then does not go to another host."""
    context.setdefault("s3_redirect", {})["redirected"] = True


class _Session:
    """What `AioConfig(http_session_cls=...)` makes, in place of aiobotocore's own class."""

    def __init__(self, session: HttpSession) -> None:
        self._session = session

    async def __aenter__(self) -> _Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        """The connections are not its own."""

    async def close(self) -> None:
        """The same."""

    async def send(self, request: Any) -> AioAWSResponse:
        """Send a botocore `AWSPreparedRequest`, and read the answer."""
        headers = {
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in request.headers.items()
        }
        response = await self._session.raw(request.method, request.url, headers, request.body)
        answer = AioAWSResponse(
            request.url,
            response.status,
            {name.lower(): value for name, value in response.headers.items()},
            response,
        )
        # White space is what a store sends while it copies an object, to keep the connection
        # open. Before an XML declaration, botocore takes it for an error.
        answer._content = (await response.read()).lstrip()
        return answer
