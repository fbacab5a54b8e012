"""Signatures of ours, against botocore's own signer."""

import hashlib
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from epoch.store.s3_sign import Signer

ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    "base", ["http://127.0.0.1:9000/bucket/", "https://b.s3.eu-west-1.amazonaws.com/"]
)
@pytest.mark.parametrize("key", ["epoch/blobs/sha256/00ff", "a b/ü+&=/c~d", "x"])
@pytest.mark.parametrize("upload_id", ["abc", "a/b+c=d e&f", "2~Xy_-."])
def test_the_signature_is_botocores(base: str, key: str, upload_id: str) -> None:
    url, headers = Signer(base, ACCESS, SECRET, "eu-west-1").part(key, upload_id, 17)

    request = AWSRequest("PUT", url, headers={"Host": headers["Host"]}, data=b"")
    request.headers["X-Amz-Content-SHA256"] = "UNSIGNED-PAYLOAD"
    request.context["timestamp"] = headers["x-amz-date"]
    signer = S3SigV4Auth(Credentials(ACCESS, SECRET), "s3", "eu-west-1")
    request.headers["X-Amz-Date"] = headers["x-amz-date"]
    canonical = signer.canonical_request(request)
    to_sign = signer.string_to_sign(request, canonical)
    assert headers["Authorization"].endswith(f"Signature={signer.signature(to_sign, request)}")
    assert parse_qs(urlsplit(url).query) == {"partNumber": ["17"], "uploadId": [upload_id]}


def test_the_key_of_a_day_is_not_used_on_the_next() -> None:
    signer = Signer("http://h/b/", ACCESS, SECRET, "us-east-1")
    first = signer.part("k", "u", 1, now=86400.0 * 20000 - 1)[1]
    second = signer.part("k", "u", 1, now=86400.0 * 20000)[1]
    again = Signer("http://h/b/", ACCESS, SECRET, "us-east-1")
    assert second == again.part("k", "u", 1, now=86400.0 * 20000)[1]
    assert first["Authorization"] != second["Authorization"]


def test_without_a_secret_nothing_is_signed() -> None:
    _, headers = Signer("http://h:1/b/", ACCESS, "", "us-east-1").part("k", "u", 1)
    assert headers == {"Host": "h:1"}


def test_completing_signs_its_body() -> None:
    url, headers = Signer("http://h:1/b/", ACCESS, SECRET, "us-east-1").complete("k", "u+", b"<x/>")
    assert url == "http://h:1/b/k?uploadId=u%2B"
    assert headers["x-amz-content-sha256"] == hashlib.sha256(b"<x/>").hexdigest()
    request = AWSRequest("POST", url, headers={"Host": "h:1"}, data=b"<x/>")
    request.context["timestamp"] = request.headers["X-Amz-Date"] = headers["x-amz-date"]
    request.headers["X-Amz-Content-SHA256"] = headers["x-amz-content-sha256"]
    signer = S3SigV4Auth(Credentials(ACCESS, SECRET), "s3", "us-east-1")
    to_sign = signer.string_to_sign(request, signer.canonical_request(request))
    assert headers["Authorization"].endswith(f"Signature={signer.signature(to_sign, request)}")
