"""What a device asks of a bundle before it opens it: a fingerprint, or the signature of a key that it trusts.

A bundle's fingerprint is the SHA-256 of its ``manifest.json``, which names every other file by its own SHA-256: the
fingerprint of a folder and of its tar are the same, and ``sha256sum bundle/manifest.json`` prints it. The signature is
``model.sig`` beside the manifest, in the format of OpenSSF Model Signing, whose library this file alone imports.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import TrustError, UsageError
from .storage import write_bytes

SIGNATURE = "model.sig"
MAX_SIGNATURE_SIZE = 2**22  # 4 MiB; one of a bundle with a thousand files is 300 KB
KEYLESS = "keyless"
SETTING = "HYBRID_EDGE_REQUIRE_SIGNATURE"
DEVICE_KEY = Path("/etc/hybrid-edge/require-signature.pem")
"""A public key that lies here is required of every bundle that this device opens."""

_FINGERPRINT = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_IDENTITY = re.compile(r"([^,\s]+),(https://[^,\s]+)")


@dataclass(frozen=True)
class Trust:
    """What a bundle must be to be opened; without any condition, what this device asks of every bundle.

    Attributes:
        fingerprints: of which the bundle must have one; none: any will do.
        signer: the path of a public key (PEM; P-256, P-384 or P-521), or ``IDENTITY,https://ISSUER`` of a keyless
            signature. None takes ``$HYBRID_EDGE_REQUIRE_SIGNATURE``, else the key at ``DEVICE_KEY``, else nobody; an
            empty text asks for no signature whatever the device says.
    """

    fingerprints: tuple[str, ...] = ()
    signer: str | None = None

    @classmethod
    def from_flags(cls, fingerprints: Iterable[str] | None, signer: str | None) -> Trust:
        """Read ``--expect-sha256`` and ``--require-signature`` as they were given.

        Raises:
            UsageError: a fingerprint is not 64 hexadecimal digits.
        """
        return cls(tuple(map(parse_fingerprint, fingerprints or ())), signer)

    @property
    def required_signer(self) -> str | None:
        """Who must have signed the bundle, by the option, the environment or the device's own key; None: nobody."""
        if self.signer is not None:
            return self.signer or None
        return os.environ.get(SETTING) or (str(DEVICE_KEY) if DEVICE_KEY.exists() else None)

    def check(self, folder: Path, manifest: bytes) -> None:
        """Refuse a bundle that does not meet the conditions; ``manifest`` is the text that was read of it.

        Raises:
            TrustError: the bundle has another fingerprint, no signature, or one that is not the signer's.
            UsageError: the public key can't be read, or the library that verifies signatures is not installed.
        """
        found = fingerprint(manifest)
        if self.fingerprints and found not in self.fingerprints:
            raise TrustError(
                f"{folder}: expected a bundle with the fingerprint {' or '.join(self.fingerprints)}, found {found}; "
                "fetch the right one again, or compare with what hybrid-export printed"
            )
        if self.required_signer is not None:
            verify_signature(folder, found, self.required_signer)


ANYONE = Trust(signer="")
"""Trusts everybody: for whoever makes bundles, and signs them later."""


def fingerprint(manifest: bytes) -> str:
    """Return a bundle's fingerprint, 64 hexadecimal digits, from the bytes of its manifest."""
    return hashlib.sha256(manifest).hexdigest()


def parse_fingerprint(text: str) -> str:
    """Return the 64 hexadecimal digits of a fingerprint, which may have ``sha256:`` before it.

    Raises:
        UsageError: the text is no fingerprint.
    """
    found = _FINGERPRINT.fullmatch(text.strip().lower())
    if found is None:
        raise UsageError(
            f"--expect-sha256: expected 64 hexadecimal digits, found {text[:80]!r}; hybrid-export prints them"
        )
    return found[1]


def verify_signature(folder: Path, expected: str, signer: str) -> None:
    """Verify that ``signer`` signed the bundle in ``folder`` whose fingerprint is ``expected``.

    The library verifies the signature and hashes every file that it covers; that the manifest which was read is one of
    them is then taken from the signed statement itself.

    Raises:
        TrustError: there is no signature, it is not the signer's, or it is of other files.
        UsageError: the public key can't be read, or the library is not installed.
    """
    library = _library("verifying")
    config = library.Config().set_ignore_unsigned_files(True)  # what the manifest does not name is never read
    with _signer_faults(signer):
        if keyless := _IDENTITY.fullmatch(signer):
            config.use_sigstore_verifier(identity=keyless[1], oidc_issuer=keyless[2])
        else:
            config.use_elliptic_key_verifier(public_key=Path(signer))
    signature = _read(folder / SIGNATURE, signer)
    with tempfile.TemporaryDirectory() as private, _verification_faults(folder, signer):
        copy = Path(private) / SIGNATURE  # nobody can replace it between the verification and the reading below
        copy.write_bytes(signature)
        with contextlib.redirect_stdout(sys.stderr):  # results alone belong on stdout
            config.verify(folder, copy)
        if _signed_manifest(signature) != expected:
            raise ValueError("it covers another manifest.json than the one that was read")


def sign_bundle(folder: Path, key: str, files: Collection[str]) -> None:
    """Sign a bundle's folder into ``model.sig``: the manifest and ``files``, those that it names, and nothing else.

    ``key`` is the path of a private key (PEM without a password; P-256, P-384 or P-521), or ``keyless`` for an identity
    that a browser or the build service vouches for, which needs a network.

    Raises:
        UsageError: the key can't be used, the keyless service not be reached, or the library is not installed.
    """
    config = _library("signing").Config()
    # the library signs whatever is in a folder, and names in the signature what it is told to ignore
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as outside:
        view, signature = Path(outside) / folder.name, Path(outside) / SIGNATURE
        for name in {"manifest.json", *files}:
            (view / name).parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(folder / name, view / name)
        with _signer_faults(key):
            _use_key(config, key)
            config.sign(view, signature)
        write_bytes(folder / SIGNATURE, signature.read_bytes())


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def check_key(key: str) -> None:
    """Refuse a key that ``sign_bundle`` could not use, before the work that is to be signed.

    Raises:
        UsageError: it is no private key, or the library is not installed.
    """
    config = _library("signing").Config()
    with _signer_faults(key):
        _use_key(config, key)


def _use_key(config: Any, key: str) -> None:
    if key == KEYLESS:
        config.use_sigstore_signer(use_ambient_credentials=True)
    else:
        config.use_elliptic_key_signer(private_key=Path(key))


def _signed_manifest(signature: bytes) -> str:
    """Return the SHA-256 that a verified signature's statement gives for ``manifest.json``."""
    payload = json.loads(base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"]))
    covered = {item["name"]: item for item in payload["predicate"]["resources"]}
    manifest = covered["manifest.json"]
    if manifest["algorithm"] != "sha256":
        raise ValueError(f"it covers files by {manifest['algorithm']}, and not by sha256")
    return str(manifest["digest"])


def _read(path: Path, signer: str) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise TrustError(
            f"{path.parent}: expected a bundle that is signed ({signer}), found no {SIGNATURE} in it; sign it with "
            "hybrid-export --sign KEY, or take it from whoever signed it"
        )
    with path.open("rb") as file:
        return file.read(MAX_SIGNATURE_SIZE)


@contextlib.contextmanager
def _verification_faults(folder: Path, signer: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of a parser that reads what an attacker may have written: anything
        raise TrustError(
            f"{folder}: expected a signature by {signer} over the files as they are, found: "
            f"{_short(error)}; take the bundle again from whoever signed it, and don't run this one"
        ) from None


@contextlib.contextmanager
def _signer_faults(key: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # OpenSSL's, the service's or the file system's
        raise UsageError(
            f"{key}: expected a key in PEM (P-256, P-384 or P-521, the private one without a password), or an "
            f"identity whose service can be reached, found: {_short(error)}"
        ) from None


def _short(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"


def _library(name: str) -> Any:
    try:
        found: ModuleType = importlib.import_module(f"model_signing.{name}")
    except ImportError as error:
        raise UsageError(
            f"signatures: expected model-signing, found none that can be imported ({error}): "
            "pip install 'hybrid-edge[sign]'"
        ) from error
    return found
