"""The public keys of another token issuer: a JSON Web Key Set (RFC 7517), or PEM."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

MIN_RSA_BITS: Final = 2048
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A key, and the only algorithms that a token signed with it may name."""

    kid: str | None
    """The id by which a token chooses it; None: it is the only one there is."""

    key: Any
    algorithms: tuple[str, ...]


def parse(data: bytes) -> list[VerifyingKey]:
    """The keys of a file. ValueError: what is in it is no public key, or one that will not do."""
    try:
        return _from_pem(data) if data.lstrip().startswith(b"-----BEGIN") else _from_jwks(data)
    except (
        *(ValueError, TypeError, KeyError, RecursionError),
        *(jwt.PyJWTError, UnsupportedAlgorithm),
    ) as error:
        raise ValueError(f"the token keys in it are of no use: {error}") from None


def _from_pem(data: bytes) -> list[VerifyingKey]:
    if data.count(b"-----BEGIN") != 1:
        raise ValueError("a PEM file must hold one key or certificate; write a JWKS for more")
    if b"-----BEGIN CERTIFICATE-----" in data:
        key: Any = x509.load_pem_x509_certificate(data).public_key()
    elif b"PRIVATE KEY" in data:
        raise ValueError("that is the private key: give the public one")
    else:
        key = load_pem_public_key(data)
    return [VerifyingKey(None, key, _algorithms(key))]


def _from_jwks(data: bytes) -> list[VerifyingKey]:
    document = json.loads(data)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("neither PEM nor a JSON Web Key Set")
    if not all(isinstance(item, dict) for item in document["keys"]):
        raise ValueError("`keys` contains something that is not a key")
    found = [_from_jwk(item) for item in document["keys"] if item.get("use", "sig") == "sig"]
    if not found:
        raise ValueError("there is no key in it")
    if len({key.kid for key in found}) != len(found):
        raise ValueError("two keys have the same kid")
    return found


def _from_jwk(item: dict[str, Any]) -> VerifyingKey:
    if item.get("kty") == "oct":
        raise ValueError("a symmetric key cannot be public")
    if "d" in item:
        raise ValueError("it holds a private key: give the public ones")
    kid = item.get("kid")
    if not isinstance(kid, str) or not kid:
        raise ValueError("a key has no kid")
    named = item.get("alg")
    key = jwt.PyJWK({name: value for name, value in item.items() if name != "alg"}).key
    algorithms = _algorithms(key)
    if named is not None and named not in algorithms:
        raise ValueError(f"key {kid!r} cannot be used with {named!r}")
    return VerifyingKey(kid, key, (named,) if named else algorithms)


def _algorithms(key: object) -> tuple[str, ...]:
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise ValueError(f"an RSA key has fewer than {MIN_RSA_BITS} bits")
        return _RSA
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return (_CURVES[key.curve.name],)
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return ("EdDSA",)
    raise ValueError("a key is neither RSA, EC on a NIST curve nor EdDSA")
