"""What each client really sends, request by request, and what it reads from the answers.

Taken from traces of skopeo 1.9, crane, containerd 1.6, curl 7.88 and python-dxf 12.1, and from the
source of docker, oras-go, regclient and others.
"""

from __future__ import annotations

import re
import secrets
import socket

from tests.conformance.client import Answer, Client, Field, digest_of, exchange, with_digest
from tests.conformance.datasets import push_image
from tests.conformance.operations import IMAGE, Repository
from tests.conformance.test_spec_pull import SIX

SIZE = 5000
JSON = ("Content-Type", "application/json")
OCTETS = ("Content-Type", "application/octet-stream")


def agent(name: str) -> Field:
    return "User-Agent", name


def received(answer: Answer) -> int:
    """The bytes that docker reads from Range: `%d-%d`, where the end is not before the start."""
    found = re.fullmatch(r"(\d+)-(\d+)", answer.get("Range"))
    assert found is not None, answer
    assert int(found[2]) >= int(found[1])
    return int(found[2]) + 1


def test_docker_push(repository: Repository) -> None:
    """POST, one PATCH of unknown length, PUT, HEAD; each Location from the answer before."""
    data, docker = secrets.token_bytes(SIZE), agent("docker/27.0 go/go1.22 (linux)")
    send, url = repository.client.send, repository.uploads
    assert send("HEAD", repository.url("blobs", digest_of(data)), docker).status == 404
    begun = send("POST", url, docker, ("Accept-Encoding", "gzip"), body=b"")
    assert begun.status == 202
    received(begun)
    pieces = [data[start : start + 700] for start in range(0, SIZE, 700)]
    patched = send("PATCH", begun.location, docker, ("Accept-Encoding", "gzip"), body=pieces)
    assert (patched.status, received(patched)) == (202, SIZE)
    closed = send("PUT", with_digest(patched.location, digest_of(data)), docker, body=b"")
    assert closed.status == 201
    assert closed.get("Docker-Content-Digest") == digest_of(data)
    assert send("HEAD", repository.url("blobs", digest_of(data)), docker).status == 200


def test_docker_mounts_from_several_and_cancels_the_rest(repository: Repository) -> None:
    data, docker = secrets.token_bytes(SIZE), agent("docker/27.0 go/go1.22 (linux)")
    query = f"?from=library%2Fnone&mount={digest_of(data).replace(':', '%3A')}"
    begun = repository.client.send("POST", repository.uploads + query, docker, body=b"")
    assert begun.status == 202
    cancelled = repository.client.send("DELETE", begun.location, docker)
    assert (cancelled.status, cancelled.body) == (204, b"")


def test_containerd_push(repository: Repository) -> None:
    """HEAD with `Accept: <type>, */*`, POST, one PUT with `digest` added to a sorted query."""
    data, containerd = secrets.token_bytes(SIZE), agent("containerd/1.6.20")
    accept = ("Accept", "application/vnd.oci.image.layer.v1.tar+gzip, */*")
    send = repository.client.send
    head = send("HEAD", repository.url("blobs", digest_of(data)), containerd, accept)
    assert head.status == 404
    # The mount's query comes raw, neither encoded nor sorted.
    begun = send(
        "POST",
        f"{repository.uploads}?mount={digest_of(data)}&from=conformance/none",
        containerd,
        body=b"",
    )
    assert begun.status == 202
    closed = send(
        "PUT", with_digest(begun.location, digest_of(data)), containerd, OCTETS, body=data
    )
    assert closed.status == 201
    # Its Commit parses this one, and refuses the push where it is missing.
    assert closed.get("Docker-Content-Digest") == digest_of(data)


def test_containerd_push_of_no_bytes_is_chunked(repository: Repository) -> None:
    begun = repository.client.send("POST", repository.uploads, body=b"")
    url = with_digest(begun.location, digest_of(b""))
    closed = repository.client.send("PUT", url, OCTETS, body=[])
    assert closed.status == 201
    assert closed.get("Docker-Content-Digest") == digest_of(b"")


def test_containerd_pull_compresses_nothing(repository: Repository) -> None:
    manifest = push_image(repository, "v1")
    wanted = ("Accept-Encoding", "zstd,gzip,deflate")
    head = repository.client.send(
        "HEAD", repository.url("manifests", "v1"), ("Accept", f"{IMAGE}, */*")
    )
    assert head.get("Docker-Content-Digest") == manifest.digest
    url = repository.url("manifests", manifest.digest)
    answer = repository.client.send("GET", url, wanted, ("Accept", f"{IMAGE}, */*"))
    assert answer.body == manifest.data
    assert not answer.get("Content-Encoding")


def test_containerd_pull_reads_a_chunk_of_an_open_range_and_leaves(repository: Repository) -> None:
    """In parallel, from several offsets; the server must live on."""
    data = secrets.token_bytes(4 * 1024 * 1024)
    repository.post_put(data)
    url = repository.url("blobs", digest_of(data))
    for start in (0, 1_000_000, 3_000_000):
        head = f"GET {url} HTTP/1.1\r\nHost: x\r\nRange: bytes={start}-\r\n\r\n"
        with socket.create_connection(("127.0.0.1", repository.client.port), 20) as sock:
            sock.sendall(head.encode())
            file = sock.makefile("rb")
            assert file.readline() == b"HTTP/1.1 206 Partial Content\r\n"
            while file.readline() != b"\r\n":
                pass
            assert file.read(65536) == data[start : start + 65536]
            file.close()
    repository.get_blob(data)


def test_skopeo_push(repository: Repository) -> None:
    """Mounts, cancels the upload that it got instead, begins another, PATCH, PUT."""
    data = secrets.token_bytes(SIZE)
    common = (
        ("User-Agent", "skopeo/1.9.3"),
        ("Docker-Distribution-Api-Version", "registry/2.0"),
    )
    send = repository.client.send
    assert send("GET", "/v2/", *common).status == 200
    mount = f"?from=conformance%2Fother&mount={digest_of(data).replace(':', '%3A')}"
    begun = send("POST", repository.uploads + mount, *common, body=b"")
    assert begun.status == 202
    assert send("DELETE", begun.location, *common).status == 204
    begun = send("POST", repository.uploads, *common, body=b"")
    patched = send("PATCH", begun.location, *common, OCTETS, body=data)
    assert (patched.status, received(patched)) == (202, SIZE)
    closed = send("PUT", with_digest(patched.location, digest_of(data)), *common, OCTETS, body=b"")
    assert closed.status == 201


def test_skopeo_asks_with_six_accept_lines(repository: Repository) -> None:
    manifest = push_image(repository, "v1")
    accept = [("Accept", each) for each in SIX]
    answer = repository.client.send("GET", repository.url("manifests", "v1"), *accept)
    assert (answer.body, answer.get("Content-Type")) == (manifest.data, IMAGE)


def test_crane_push(repository: Repository) -> None:
    """POST as JSON, PATCH with Content-Length, PUT; mounts name an origin."""
    data, crane = secrets.token_bytes(SIZE), agent("crane/0.20 go-containerregistry/0.20")
    other = Repository(repository.client, f"{repository.name}-2")
    send = repository.client.send
    begun = send("POST", repository.uploads, crane, JSON, body=b"")
    patched = send("PATCH", begun.location, crane, body=data)
    assert patched.status == 202
    closed = send("PUT", with_digest(patched.location, digest_of(data)), crane, body=b"")
    assert closed.status == 201
    mount = f"?from={repository.name}&mount={digest_of(data)}&origin=localhost"
    mounted = send("POST", other.uploads + mount, crane, JSON, body=b"")
    assert mounted.status == 201
    manifest = push_image(repository, "v1")
    head = send("HEAD", repository.url("manifests", "v1"), crane)
    assert head.get("Content-Length") == str(len(manifest.data))
    assert send("GET", repository.url("tags", "list") + "?n=1000").json()["tags"] == ["v1"]


def test_kaniko_checks_whether_it_may_push(repository: Repository) -> None:
    begun = repository.client.send("POST", repository.uploads, JSON, body=b"")
    assert repository.client.send("DELETE", begun.location).status == 204


def test_oras_push_and_seek(repository: Repository) -> None:
    """Reads `Accept-Ranges` before it seeks; asks for referrers of the digest of zeros."""
    zeros = "sha256:" + "0" * 64
    send = repository.client.send
    ping = send("GET", repository.url("referrers", zeros))
    assert ping.status == 200
    data = secrets.token_bytes(SIZE)
    begun = send("POST", repository.uploads, body=b"")
    closed = send("PUT", with_digest(begun.location, digest_of(data)), OCTETS, body=data)
    assert closed.status == 201
    whole = send("GET", repository.url("blobs", digest_of(data)))
    assert whole.get("Accept-Ranges") == "bytes"
    rest = send("GET", repository.url("blobs", digest_of(data)), ("Range", f"bytes=7-{SIZE - 1}"))
    assert (rest.status, rest.body) == (206, data[7:])


def test_regclient_goes_on_in_chunks_on_the_same_upload(repository: Repository) -> None:
    """After a PUT that broke off; it appends `&digest=` to whatever query there is."""
    data = secrets.token_bytes(SIZE)
    send = repository.client.send
    begun = send("POST", f"{repository.uploads}?mount={digest_of(data)}", body=b"")
    assert begun.status == 202
    target = f"{begun.location}?digest={digest_of(data)}"
    head = f"PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {SIZE}\r\n\r\n".encode()
    cut = exchange(repository.client.port, head + data[:3000], finish=True)
    assert b" 201 " not in cut.partition(b"\r\n")[0]
    url = begun.location
    for start in range(0, SIZE, 2000):
        chunk = data[start : start + 2000]
        span = ("Content-Range", f"{start}-{start + len(chunk) - 1}")
        answer = send("PATCH", url, OCTETS, span, body=chunk)
        assert (answer.status, received(answer)) == (202, start + len(chunk))
        url = answer.location
    mark = "&" if "?" in url else "?"
    assert send("PUT", f"{url}{mark}digest={digest_of(data)}", body=b"").status == 201


def test_a_stream_that_is_sent_again_is_never_appended(repository: Repository) -> None:
    """.NET, Apple's and Azure's clients begin again at byte 0 on the same upload."""
    data = secrets.token_bytes(SIZE)
    send = repository.client.send
    url = send("POST", repository.uploads, body=b"").location
    head = f"PATCH {url} HTTP/1.1\r\nHost: x\r\nContent-Length: {SIZE}\r\n\r\n".encode()
    cut = exchange(repository.client.port, head + data[:2000], finish=True)
    assert b" 202 " not in cut.partition(b"\r\n")[0]
    again = send("PATCH", url, OCTETS, body=data)
    if again.status == 416:  # it was told where to go on
        status = send("GET", url)
        start = received(status)
        span = ("Content-Range", f"{start}-{SIZE - 1}")
        again = send("PATCH", url, OCTETS, span, body=data[start:])
    assert again.status == 202
    assert send("PUT", with_digest(url, digest_of(data)), body=b"").status == 201


def test_python_clients_send_head_and_body_apart(repository: Repository) -> None:
    data = secrets.token_bytes(SIZE)
    url = repository.client.send("POST", repository.uploads, body=b"").location
    head = (
        f"PUT {with_digest(url, digest_of(data))} HTTP/1.1\r\nHost: x\r\n"
        f"Connection: close\r\nContent-Length: {SIZE}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", repository.client.port), 20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(head.encode())
        for start in range(0, SIZE, 1000):
            sock.sendall(data[start : start + 1000])
        assert sock.makefile("rb").read().startswith(b"HTTP/1.1 201 ")
    repository.get_blob(data)


def test_curl_waits_for_100_continue(repository: Repository) -> None:
    data = secrets.token_bytes(SIZE)
    url = f"{repository.uploads}?digest={digest_of(data)}"
    head = (
        f"POST {url} HTTP/1.1\r\nHost: x\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n"
        f"Content-Length: {SIZE}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        "Expect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", repository.client.port), 20) as sock:
        sock.sendall(head.encode())
        file = sock.makefile("rb")
        assert file.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert file.readline() == b"\r\n"
        sock.sendall(data)
        assert file.readline() == b"HTTP/1.1 201 Created\r\n"
        file.close()


def test_curl_posts_without_a_length(repository: Repository) -> None:
    answer = repository.client.send(
        "POST", repository.uploads, agent("curl/7.88.1"), ("Accept", "*/*")
    )
    assert answer.status == 202


# Quirks that all have


def test_tls_on_the_plain_port_is_answered_in_plain_text(client: Client) -> None:
    """crane, skopeo and containerd try TLS first, and fall back when they see `HTTP/`."""
    hello = bytes.fromhex("16030100c8010000c40303") + bytes(200)
    assert exchange(client.port, hello).startswith(b"HTTP/1.1 400 ")


def test_locations_are_relative_and_echo_no_host(repository: Repository) -> None:
    fields = (
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", "host=evil.example;proto=https"),
    )
    data = secrets.token_bytes(SIZE)
    send = repository.client.send
    begun = send("POST", repository.uploads, *fields, body=b"")
    closed = send("PUT", with_digest(begun.location, digest_of(data)), *fields, body=data)
    for answer in (begun, closed):
        assert answer.get("Location").startswith("/v2/")


def test_locations_survive_any_encoder(repository: Repository) -> None:
    """Decoded, sorted, encoded again: nothing in them changes by that."""
    for _ in range(20):
        location = repository.client.send("POST", repository.uploads, body=b"").get("Location")
        assert re.fullmatch(r"[A-Za-z0-9/_.=&?-]+", location)


def test_any_type_of_a_blob(repository: Repository) -> None:
    types = ("application/octet-stream", "application/json", "text/plain; charset=utf-8", "")
    for content_type in (*types, "application/x-www-form-urlencoded", "multipart/form-data"):
        data = secrets.token_bytes(SIZE)
        url = repository.begin().location
        field = ("Content-Type", content_type)
        assert repository.client.send("PATCH", url, field, body=data[:9]).status == 202
        closing = with_digest(url, digest_of(data))
        assert repository.client.send("PUT", closing, field, body=data[9:]).status == 201


def test_one_connection_for_everything(repository: Repository) -> None:
    """Also behind answers to HEAD, 204, 404 and 416."""
    send, data = repository.client.send, secrets.token_bytes(SIZE)
    assert send("GET", "/v2/").status == 200
    connection = repository.client.local_port
    repository.chunked(data, put_last=True)
    repository.head_blob(data)
    url = repository.begin().location
    assert send("GET", url).status == 204
    assert send("GET", repository.url("blobs", digest_of(b"none"))).status == 404
    blob = repository.url("blobs", digest_of(data))
    assert send("GET", blob, ("Range", "bytes=9999-")).status == 416
    push_image(repository, "v1")
    assert repository.client.local_port == connection


def test_an_upgrade_is_ignored_and_its_body_is_a_body(repository: Repository) -> None:
    """curl --http2. A server that ended the message here would take the body for a request."""
    data = b"GET /v2/_catalog HTTP/1.1\r\nHost: x\r\n\r\n" + secrets.token_bytes(8)
    url = f"{repository.uploads}?digest={digest_of(data)}"
    head = (
        f"POST {url} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        f"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    answer = exchange(repository.client.port, head.encode() + data, finish=True)
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    repository.get_blob(data)


def test_a_refusal_before_the_body_is_read_whole(repository: Repository) -> None:
    """The client still sends; it must see the answer, not a reset."""
    big = bytes(8 * 1024 * 1024)
    answer = repository.client.send("PUT", repository.url("manifests", "v1"), body=big)
    assert answer.refusal == (413, "SIZE_INVALID")
    unknown = repository.client.send("PATCH", f"{repository.uploads}none", body=big)
    assert unknown.refusal == (404, "BLOB_UPLOAD_UNKNOWN")


SMUGGLED = {
    "two lengths": "Content-Length: 5\r\nContent-Length: 6\r\n",
    "length and coding": "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "an unknown coding": "Transfer-Encoding: gzip, chunked\r\n",
    "a length with a sign": "Content-Length: +5\r\n",
    "a space before the colon": "Content-Length : 5\r\n",
    "a folded field": "X: a\r\n b\r\n",
    "a bare line feed": "X: a\nY: b\r\n",
}


def test_ambiguous_framing_is_refused(repository: Repository) -> None:
    for what, fields in SMUGGLED.items():
        head = f"POST {repository.uploads} HTTP/1.1\r\nHost: x\r\n{fields}\r\n"
        follow = "0\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = exchange(repository.client.port, (head + follow).encode(), finish=True)
        assert re.match(rb"HTTP/1.1 (400|501) ", answer), what
        assert answer.count(b"HTTP/1.1 ") == 1, what
