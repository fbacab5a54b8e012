"""Signatures of parts, against botocore's own signer."""

from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from epoch.store.s3_sign import PartSigner

ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    "base", ["http://127.0.0.1:9000/bucket/", "https://b.s3.eu-west-1.amazonaws.com/"]
)
@pytest.mark.parametrize("key", ["epoch/blobs/sha256/00ff", "a b/ü+&=/c~d", "x"])
@pytest.mark.parametrize("upload_id", ["abc", "a/b+c=d e&f", "2~Xy_-."])
def test_the_signature_is_botocores(base: str, key: str, upload_id: str) -> None:
    url, headers = PartSigner(base, ACCESS, SECRET, "eu-west-1").request(key, upload_id, 17)

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
    signer = PartSigner("http://h/b/", ACCESS, SECRET, "us-east-1")
    first = signer.request("k", "u", 1, now=86400.0 * 20000 - 1)[1]
    second = signer.request("k", "u", 1, now=86400.0 * 20000)[1]
    again = PartSigner("http://h/b/", ACCESS, SECRET, "us-east-1")
    assert second == again.request("k", "u", 1, now=86400.0 * 20000)[1]
    assert first["Authorization"] != second["Authorization"]


def test_without_a_secret_nothing_is_signed() -> None:
    _, headers = PartSigner("http://h:1/b/", ACCESS, "", "us-east-1").request("k", "u", 1)
    assert headers == {"Host": "h:1"}
