"""Grammar of digests (OCI image-spec, "Digests"): `sha256:<64 hex>` and `sha512:<128 hex>`."""

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Self

from epoch.errors import Code, RegistryError

HEX_LENGTH: Final = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Digest:
    """A content address. `str()` gives the wire form `algorithm:hex`."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the wire form, or raise DIGEST_INVALID (algorithm, length, upper case)."""
        algorithm, colon, value = text.partition(":")
        length = HEX_LENGTH.get(algorithm)
        if not colon or length is None:
            raise RegistryError(
                Code.DIGEST_INVALID,
                "not a digest: expected sha256:<64 hex digits> or sha512:<128 hex digits>",
            )
        if len(value) != length or _HEX.fullmatch(value) is None:
            raise RegistryError(
                Code.DIGEST_INVALID,
                f"not a {algorithm} digest: expected {length} lower-case hex digits",
            )
        return cls(algorithm, value)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview, algorithm: str = "sha256") -> Self:
        """The digest of `data`."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
