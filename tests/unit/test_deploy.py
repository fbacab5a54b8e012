"""The samples in `deploy/` do what their comments promise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"


def _words(instruction: str) -> list[str]:
    """The last instruction of that name in the Containerfile, in its JSON form."""
    text = (DEPLOY / "Containerfile").read_text()
    found = re.findall(rf"^{instruction} (\[.*\])$", text, re.MULTILINE)
    words: list[str] = json.loads(found[-1])
    return words


@pytest.mark.parametrize("arguments", [None, ["serve"], ["gc"], ["verify"], ["htpasswd"]])
def test_arguments_of_the_image_are_those_of_epoch(arguments: list[str] | None) -> None:
    program, *more = [*_words("ENTRYPOINT"), *(arguments or _words("CMD"))]
    path = Path(sys.executable).with_name(program)
    done = subprocess.run([path, *more, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"Usage: epoch {(arguments or ['serve'])[0]} ")


def test_the_deployment_is_not_open_and_has_its_probes() -> None:
    text = (DEPLOY / "kubernetes.yaml").read_text()
    # From a key that must be there, or no container is started.
    assert re.search(
        r"- name: EPOCH_REGISTRY_TOKEN\n +valueFrom:\n"
        r" +secretKeyRef: \{name: [\w-]+, key: EPOCH_REGISTRY_TOKEN\}\n",
        text,
    )
    assert re.search(r"readinessProbe:\n +httpGet: \{path: /readyz, port: http\}", text)
    assert re.search(r"livenessProbe:\n +httpGet: \{path: /healthz, port: http\}", text)


def test_the_unit_reloads() -> None:
    text = (DEPLOY / "epoch.service").read_text()
    assert "\nExecReload=/bin/kill -HUP $MAINPID\n" in text


def test_the_proxy_leaves_nothing_to_the_client() -> None:
    text = (DEPLOY / "nginx.conf").read_text()
    for name in ("For", "Proto", "Host"):
        assert f"proxy_set_header X-Forwarded-{name} $" in text
