"""Which proxy leads to the bucket: a table after the rules of Go's `httpproxy`."""

from __future__ import annotations

import pytest

from epoch.config import SettingsError
from epoch.store.s3.proxy import proxy_for

PROXY = "http://proxy.corp.example:3128"


@pytest.mark.parametrize(
    ("url", "variables", "expected"),
    [
        ("http://s3.example/", {}, None),
        ("http://s3.example/", {"HTTP_PROXY": PROXY}, PROXY),
        ("http://s3.example/", {"http_proxy": PROXY}, PROXY),
        ("https://s3.example/", {"HTTPS_PROXY": PROXY}, PROXY),
        ("https://s3.example/", {"https_proxy": PROXY}, PROXY),
        ("https://s3.example/", {"HTTP_PROXY": PROXY}, None),
        ("http://s3.example/", {"HTTPS_PROXY": PROXY}, None),
        ("http://s3.example/", {"HTTP_PROXY": PROXY, "http_proxy": "http://other"}, PROXY),
        ("http://s3.example/", {"HTTP_PROXY": "", "http_proxy": PROXY}, PROXY),
        ("http://s3.example/", {"ALL_PROXY": PROXY}, None),
        ("http://s3.example/", {"HTTP_PROXY": "proxy:3128"}, "http://proxy:3128"),
        ("http://s3.example/", {"HTTP_PROXY": "proxy"}, "http://proxy"),
        ("https://s3.example/", {"HTTPS_PROXY": "https://proxy"}, "https://proxy"),
        ("https://s3.example/", {"HTTPS_PROXY": "http://me:pw@proxy"}, "http://me:pw@proxy"),
    ],
)
def test_the_variable_of_the_scheme(
    url: str, variables: dict[str, str], expected: str | None
) -> None:
    assert proxy_for(url, variables) == expected


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_both_ways_to_write_what_is_excepted(name: str) -> None:
    assert proxy_for("http://s3.example/", {"HTTP_PROXY": PROXY, name: "s3.example"}) is None


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:9000",
        "127.0.0.1",
        "127.255.3.4:9000",
        "[::1]:9000",
        "[::ffff:127.0.0.1]",
    ],
)
def test_loopback_is_never_reached_by_a_proxy(host: str) -> None:
    for scheme in ("http", "https"):
        variables = {"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY, "NO_PROXY": "elsewhere"}
        assert proxy_for(f"{scheme}://{host}/bucket/", variables) is None


NO_PROXY = (
    " plain.example, .below.example,*.star.example ,UPPER.example, ports.example:9000,"
    "10.1.2.3, 10.1.2.4:9000, 10.20.0.0/16, 2001:db8::3, [2001:db8::4]:9000, 2001:db8:1::/48,"
    ",:1, 300.0.0.0/8, 10.30.0.0/33, 10.40.0.0/255.255.0.0, [2001:db8::5], bücher.example"
)


@pytest.mark.parametrize(
    ("host", "direct"),
    [
        ("plain.example", True),
        ("PLAIN.example", True),
        ("a.b.plain.example", True),
        ("notplain.example", False),
        ("plain.example.org", False),
        ("below.example", False),
        ("x.below.example", True),
        ("star.example", False),
        ("x.star.example", True),
        ("xstar.example", False),
        ("upper.example", True),
        ("ports.example", False),
        ("ports.example:9000", True),
        ("x.ports.example:9000", True),
        ("ports.example:9001", False),
        ("10.1.2.3", True),
        ("10.1.2.3:9000", True),
        ("10.1.2.4", False),
        ("10.1.2.4:9000", True),
        ("10.20.255.1:9000", True),
        ("10.21.0.1", False),
        ("10.30.0.1", False),
        ("10.40.0.1", False),
        ("[::ffff:10.20.1.1]", True),
        ("[2001:db8::3]", True),
        ("[2001:db8:0::3]:9000", True),
        ("[2001:db8::4]:9000", True),
        ("[2001:db8::4]", False),
        ("[2001:db8::5]", False),
        ("[2001:db8:1:2::3]", True),
        ("[2001:db8:2::3]", False),
        ("xn--bcher-kva.example", True),
        ("localhost.example", False),
        ("elsewhere", False),
    ],
)
def test_what_is_excepted(host: str, direct: bool) -> None:
    variables = {"HTTP_PROXY": PROXY, "NO_PROXY": NO_PROXY}
    assert proxy_for(f"http://{host}/bucket/", variables) == (None if direct else PROXY)


@pytest.mark.parametrize("no_proxy", ["*", "a.example, *", "*,b.example"])
@pytest.mark.parametrize("host", ["s3.example", "10.0.0.1", "[2001:db8::1]"])
def test_a_star_excepts_everything(host: str, no_proxy: str) -> None:
    assert proxy_for(f"http://{host}/", {"HTTP_PROXY": PROXY, "NO_PROXY": no_proxy}) is None


def test_the_port_of_the_scheme_is_what_a_url_without_one_has() -> None:
    variables = {
        "HTTP_PROXY": PROXY,
        "HTTPS_PROXY": PROXY,
        "NO_PROXY": "a.example:443,b.example:80",
    }
    assert proxy_for("https://a.example/", variables) is None
    assert proxy_for("http://a.example/", variables) == PROXY
    assert proxy_for("http://b.example/", variables) is None
    assert proxy_for("https://b.example/", variables) == PROXY


@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://me:secret-8c1@proxy:1080",
        "ftp://proxy",
        "http://",
        "http://[::1",
        "http://proxy:x",
    ],
)
def test_a_proxy_that_cannot_be_used_is_an_error(proxy: str) -> None:
    with pytest.raises(SettingsError, match=r"HTTPS_PROXY .* NO_PROXY") as caught:
        proxy_for("https://s3.example/", {"HTTPS_PROXY": proxy})
    assert "secret-8c1" not in str(caught.value)
    assert "\n" not in str(caught.value)
    variables = {"HTTPS_PROXY": proxy, "NO_PROXY": "s3.example"}
    assert proxy_for("https://s3.example/", variables) is None
