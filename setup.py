"""Builds the extension and the package's description; all else is in pyproject.toml."""

import re
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# A package index shows the README without the files beside it: of a link to one, the text stays.
README = re.sub(r"\[([^\]]+)\]\((?!https?://)[^)]+\)", r"\1", Path("README.md").read_text("utf-8"))

setup(
    long_description=README,
    long_description_content_type="text/markdown",
    ext_modules=cythonize(
        [
            Extension(
                "epoch._fastio",
                [
                    "src/epoch/_fastio.pyx",
                    "src/epoch/native/sha256.c",
                    "src/epoch/native/sha256_lanes.c",
                ],
                depends=["src/epoch/native/sha256.h", "src/epoch/native/sha256_lanes.h"],
                extra_compile_args=["-O3"],
            )
        ],
        compiler_directives={"language_level": "3"},
    ),
)
