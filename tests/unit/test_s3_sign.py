"""Signatures of ours, against botocore's own signer."""

import calendar
import hashlib
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import botocore.handlers
import botocore.session
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from epoch.config import S3Settings
from epoch.environment import region_of
from epoch.store.s3.signing import Signer, base_url, copy_source

ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    "base", ["http://127.0.0.1:9000/bucket/", "https://b.s3.eu-west-1.amazonaws.com/"]
)
@pytest.mark.parametrize("key", ["epoch/blobs/sha256/00ff", "a b/ü+&=/c~d", "x"])
@pytest.mark.parametrize("upload_id", ["abc", "a/b+c=d e&f", "2~Xy_-."])
@pytest.mark.parametrize("copies", [False, True])
def test_the_signature_is_botocores(base: str, key: str, upload_id: str, copies: bool) -> None:
    amz = {"x-amz-copy-source": copy_source("b", key), "x-amz-copy-source-range": "bytes=0-9"}
    further = amz if copies else {}
    url, headers = Signer(base, ACCESS, SECRET, "eu-west-1").sign(
        "PUT", key, {"uploadId": upload_id, "partNumber": "17"}, amz=further
    )

    assert further.items() <= headers.items()
    assert all(f";{name};" in headers["Authorization"] for name in further)
    request = AWSRequest("PUT", url, headers={"Host": headers["Host"], **further}, data=b"")
    request.headers["X-Amz-Content-SHA256"] = "UNSIGNED-PAYLOAD"
    request.context["timestamp"] = headers["x-amz-date"]
    signer = S3SigV4Auth(Credentials(ACCESS, SECRET), "s3", "eu-west-1")
    request.headers["X-Amz-Date"] = headers["x-amz-date"]
    canonical = signer.canonical_request(request)
    to_sign = signer.string_to_sign(request, canonical)
    assert headers["Authorization"].endswith(f"Signature={signer.signature(to_sign, request)}")
    assert parse_qs(urlsplit(url).query) == {"partNumber": ["17"], "uploadId": [upload_id]}


@pytest.mark.parametrize("key", ["epoch/blobs/sha256/00ff", "a b/\u00fc+&=%/c~d", "x?versionId=1"])
def test_the_source_of_a_copy_is_encoded_as_by_botocore(key: str) -> None:
    parameters: dict[str, Any] = {"CopySource": {"Bucket": "bucket", "Key": key}}
    botocore.handlers.handle_copy_source_param(parameters)
    assert copy_source("bucket", key) == parameters["CopySource"]


def test_the_key_of_a_day_is_not_used_on_the_next() -> None:
    signer = Signer("http://h/b/", ACCESS, SECRET, "us-east-1")
    first = signer.sign("PUT", "k", now=86400.0 * 20000 - 1)[1]
    second = signer.sign("PUT", "k", now=86400.0 * 20000)[1]
    again = Signer("http://h/b/", ACCESS, SECRET, "us-east-1")
    assert second == again.sign("PUT", "k", now=86400.0 * 20000)[1]
    assert first["Authorization"] != second["Authorization"]


def test_without_a_secret_nothing_is_signed() -> None:
    _, headers = Signer("http://h:1/b/", ACCESS, "", "us-east-1").sign("PUT", "k")
    assert headers == {"Host": "h:1"}


def test_completing_signs_its_body() -> None:
    url, headers = Signer("http://h:1/b/", ACCESS, SECRET, "us-east-1").sign(
        "POST", "k", {"uploadId": "u+"}, hashlib.sha256(b"<x/>").hexdigest()
    )
    assert url == "http://h:1/b/k?uploadId=u%2B"
    assert headers["x-amz-content-sha256"] == hashlib.sha256(b"<x/>").hexdigest()
    request = AWSRequest("POST", url, headers={"Host": "h:1"}, data=b"<x/>")
    request.context["timestamp"] = request.headers["X-Amz-Date"] = headers["x-amz-date"]
    request.headers["X-Amz-Content-SHA256"] = headers["x-amz-content-sha256"]
    signer = S3SigV4Auth(Credentials(ACCESS, SECRET), "s3", "us-east-1")
    to_sign = signer.string_to_sign(request, signer.canonical_request(request))
    assert headers["Authorization"].endswith(f"Signature={signer.signature(to_sign, request)}")


def _client(settings: S3Settings) -> Any:
    aws = settings.endpoint.endswith(".amazonaws.com")
    # Not "auto", with which botocore signs for the host of another region than the bucket's.
    style = "virtual" if aws and "." not in settings.bucket else "path"
    return botocore.session.Session().create_client(
        "s3",
        region_name=settings.region,
        endpoint_url=None if aws else settings.url,
        aws_access_key_id=ACCESS,
        aws_secret_access_key=SECRET,
        config=Config(signature_version="s3v4", s3={"addressing_style": style}),
    )


@pytest.mark.parametrize("bucket", ["bucket", "with.dots", "b-1"])
@pytest.mark.parametrize("endpoint", ["s3.eu-west-1.amazonaws.com", "127.0.0.1:9000", "s3.example"])
def test_a_presigned_url_is_botocores(endpoint: str, bucket: str) -> None:
    settings = S3Settings(endpoint, ACCESS, SECRET, bucket, region_of(endpoint))
    client = _client(settings)
    key = "epoch/blobs/a b/\u00fc+&=~"
    theirs = client.generate_presigned_url(
        "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=300
    )
    # botocore's clock cannot be set, so ours is set by it.
    stamp = parse_qs(urlsplit(theirs).query)["X-Amz-Date"][0]
    now = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    ours = Signer(base_url(settings), ACCESS, SECRET, settings.region).presign(key, 300, now)
    assert ours.partition("?")[0] == theirs.partition("?")[0]
    assert parse_qs(urlsplit(ours).query) == parse_qs(urlsplit(theirs).query)


def test_aws_without_a_region_in_its_name() -> None:
    settings = S3Settings("s3.amazonaws.com", ACCESS, SECRET, "bucket", "eu-north-1")
    assert base_url(settings) == "https://bucket.s3.eu-north-1.amazonaws.com/"
    assert base_url(S3Settings("h:9", ACCESS, SECRET, "b", secure=False)) == "http://h:9/b/"
