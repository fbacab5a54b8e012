"""Builds the one extension; everything else about the package is in pyproject.toml."""

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
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
    )
)
