"""The S3 variables mean what they mean to the Go server."""

import os
from pathlib import Path

import pytest

from epoch.config import SettingsError
from epoch.environment import load, region_of, s3_settings

BASE = {
    "EPOCH_S3_ENDPOINT": "minio:9000",
    "EPOCH_S3_ACCESS_KEY": "id",
    "EPOCH_S3_SECRET_KEY": "s3cr3t",
    "EPOCH_S3_BUCKET": "bucket",
}


def test_no_variable_means_no_bucket(tmp_path: Path) -> None:
    assert s3_settings(load({"HOME": str(tmp_path), "EPOCH_S3_BUCKET": ""})) is None


def test_the_usual_variables() -> None:
    s3 = s3_settings(load(BASE))
    assert s3 is not None
    assert (s3.endpoint, s3.access_key, s3.secret_key, s3.bucket) == (
        "minio:9000",
        "id",
        "s3cr3t",
        "bucket",
    )
    assert (s3.region, s3.secure, s3.prefix) == ("us-east-1", True, "epoch/")


@pytest.mark.parametrize(
    ("endpoint", "secure", "expected"),
    [
        ("minio", "", ("minio", True)),
        ("minio:9000", "false", ("minio:9000", False)),
        ("http://minio:9000", "", ("minio:9000", False)),
        ("https://minio", "", ("minio", True)),
        ("HTTPS://minio", "", ("minio", True)),
        ("http://minio:9000", "true", ("minio:9000", True)),
        ("https://minio:9000", "0", ("minio:9000", False)),
        ("tcp://minio:9000", "", ("minio:9000", False)),
        ("https://minio:9000/some/path?x=y", "", ("minio:9000", True)),
        ("https://user:password@minio:9000", "", ("minio:9000", True)),
        ("  http://minio:9000  ", "", ("minio:9000", False)),
        ("http://[::1]:9000", "", ("[::1]:9000", False)),
    ],
)
def test_endpoint_and_tls(endpoint: str, secure: str, expected: tuple[str, bool]) -> None:
    s3 = s3_settings(load({**BASE, "EPOCH_S3_ENDPOINT": endpoint, "EPOCH_S3_SECURE": secure}))
    assert s3 is not None
    assert (s3.endpoint, s3.secure) == expected


@pytest.mark.parametrize("word", ["1", "t", "T", "true", "TRUE", "True"])
def test_words_for_true(word: str) -> None:
    s3 = s3_settings({**BASE, "EPOCH_S3_ENDPOINT": "http://m", "EPOCH_S3_SECURE": word})
    assert s3 is not None
    assert s3.secure


@pytest.mark.parametrize("word", ["0", "f", "F", "false", "FALSE", "False"])
def test_words_for_false(word: str) -> None:
    s3 = s3_settings({**BASE, "EPOCH_S3_SECURE": word})
    assert s3 is not None
    assert not s3.secure


@pytest.mark.parametrize("word", ["yes", "tRUE", "2", " true"])
def test_other_words_are_errors(word: str) -> None:
    with pytest.raises(SettingsError, match="EPOCH_S3_SECURE"):
        s3_settings({**BASE, "EPOCH_S3_SECURE": word})


@pytest.mark.parametrize(
    "endpoint", ["minio:9000/path", "http://", "a b", "http://a b", "minio:port", "x\r\ny", "u:p@m"]
)
def test_malformed_endpoints_are_errors_that_do_not_repeat_them(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="EPOCH_S3_ENDPOINT") as caught:
        s3_settings({**BASE, "EPOCH_S3_ENDPOINT": endpoint})
    assert endpoint not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["EPOCH_S3_ENDPOINT", "EPOCH_S3_ACCESS_KEY", "EPOCH_S3_BUCKET"])
def test_half_given_settings_name_what_is_missing(missing: str, tmp_path: Path) -> None:
    environ = {key: value for key, value in BASE.items() if key != missing}
    with pytest.raises(SettingsError, match=f"{missing} is missing") as caught:
        s3_settings(load({**environ, "HOME": str(tmp_path)}))
    assert "s3cr3t" not in str(caught.value)


def test_a_lone_region_is_half_given_too(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="are missing"):
        s3_settings(load({"EPOCH_S3_REGION": "eu-west-1", "HOME": str(tmp_path)}))


@pytest.mark.parametrize("prefix", ["a", "/a/", "a//b", "a/b/"])
def test_the_prefix_is_used_as_it_is(prefix: str) -> None:
    s3 = s3_settings({**BASE, "EPOCH_S3_PREFIX": prefix})
    assert s3 is not None
    assert s3.prefix == prefix


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("s3.amazonaws.com", "us-east-1"),
        ("s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ("s3-us-west-2.amazonaws.com", "us-west-2"),
        ("s3.dualstack.ap-southeast-2.amazonaws.com", "ap-southeast-2"),
        ("s3-fips.dualstack.us-gov-west-1.amazonaws.com:443", "us-gov-west-1"),
        ("s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("s3.us-west-004.backblazeb2.com", "us-west-004"),
        ("storage.googleapis.com", "us-east-1"),
        ("s3.my-minio.example.com", "us-east-1"),
        ("127.0.0.1:9000", "us-east-1"),
    ],
)
def test_region_of_a_host(endpoint: str, region: str) -> None:
    assert region_of(endpoint) == region


def test_a_region_that_is_given_wins() -> None:
    s3 = s3_settings(
        {
            **BASE,
            "EPOCH_S3_ENDPOINT": "s3.eu-west-1.amazonaws.com",
            "EPOCH_S3_REGION": "x",
        }
    )
    assert s3 is not None
    assert s3.region == "x"


def write(path: Path, text: str) -> str:
    """Write the env file; its path as a variable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


FILE = """
# a comment
  EPOCH_S3_ENDPOINT = https://file:1
EPOCH_S3_ACCESS_KEY="quoted"
EPOCH_S3_SECRET_KEY=a=b # kept
export EPOCH_S3_REGION=nowhere
EPOCH_S3_BUCKET=from-file
EPOCH_S3_PREFIX=no-effect/
EPOCH_REGISTRY_TOKEN=token-of-file
a line without the sign
"""


def test_the_file_as_the_go_server_reads_it(tmp_path: Path) -> None:
    file = write(tmp_path / "s3.env", FILE)
    variables = load({"EPOCH_S3_ENV_FILE": file})
    s3 = s3_settings(variables)
    assert s3 is not None
    assert s3.endpoint == "file:1"
    assert s3.access_key == '"quoted"'
    assert s3.secret_key == "a=b # kept"
    assert s3.region == "us-east-1"
    assert s3.bucket == "from-file"
    assert s3.prefix == "epoch/"
    assert variables["EPOCH_REGISTRY_TOKEN"] == "token-of-file"


def test_the_default_file_lies_below_home(tmp_path: Path) -> None:
    write(tmp_path / ".config/epoch/s3.env", FILE)
    s3 = s3_settings(load({"HOME": str(tmp_path)}))
    assert s3 is not None
    assert s3.bucket == "from-file"


def test_the_environment_beats_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "s3.env", FILE)
    variables = load(
        {
            "EPOCH_S3_ENV_FILE": file,
            "EPOCH_S3_BUCKET": "mine",
            "EPOCH_S3_PREFIX": "mine/",
            "EPOCH_REGISTRY_TOKEN": "mine",
        }
    )
    s3 = s3_settings(variables)
    assert s3 is not None
    assert (s3.bucket, s3.prefix, s3.endpoint) == ("mine", "mine/", "file:1")
    assert variables["EPOCH_REGISTRY_TOKEN"] == "mine"


def test_the_file_is_not_read_where_nothing_required_is_missing(tmp_path: Path) -> None:
    file = write(tmp_path / "s3.env", FILE)
    variables = load({**BASE, "EPOCH_S3_ENV_FILE": file})
    assert "EPOCH_REGISTRY_TOKEN" not in variables


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load({"EPOCH_S3_ENV_FILE": str(tmp_path / "none")})


def test_dev_null_switches_the_file_off(tmp_path: Path) -> None:
    write(tmp_path / ".config/epoch/s3.env", FILE)
    assert s3_settings(load({"HOME": str(tmp_path), "EPOCH_S3_ENV_FILE": os.devnull})) is None


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load({"EPOCH_S3_ENV_FILE": str(tmp_path)})
