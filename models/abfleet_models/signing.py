"""Signs versions with a shared key, and checks signatures.

metadata.json names the SHA-256 of model.onnx and of every file with weights, so a signature over its bytes is one over
the whole version. The key is shared: whoever can check can sign, so it belongs to those who release and to workers.
"""

import hmac
from pathlib import Path

from abfleet_models.disk import put_file
from abfleet_models.errors import IntegrityError, RegistryError
from abfleet_models.json_files import parse_json
from abfleet_models.manifest import parse_manifest
from abfleet_models.registry import METADATA_FILE, ModelVersion

SIGNATURE_FILE = "metadata.json.hmac"
LEAST_KEY_BYTES = 16
"""128 bits; `openssl rand -hex 32` makes twice that."""


def read_key(path: Path) -> bytes:
    """The key: the file's content without white space at its ends. Raises RegistryError."""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise RegistryError(f"key file {path}: {error.strerror or error}") from error
    if len(key) < LEAST_KEY_BYTES:
        raise RegistryError(f"key file {path} has {len(key)} bytes; it must have {LEAST_KEY_BYTES} or more")
    return key


def sign(version: ModelVersion, key: bytes) -> None:
    """Signs a version whose files are intact, beside its metadata. Raises RegistryError."""
    version.verify_file()
    put_file(version.path / SIGNATURE_FILE, f"{_digest(_metadata(version), key)}\n".encode())


def check(version: ModelVersion, key: bytes) -> None:
    """Raises IntegrityError where the version has no signature of this key, or its metadata has changed since."""
    path = version.path / SIGNATURE_FILE
    if path.is_symlink() or not path.is_file():
        raise IntegrityError(f"{version.version} is not signed; sign it with abfleet models sign {version.version}")
    metadata = _metadata(version)
    try:
        found = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{version.version}/{SIGNATURE_FILE} cannot be read: {error}") from error
    if not hmac.compare_digest(found, _digest(metadata, key)):
        raise IntegrityError(f"{version.version}: {SIGNATURE_FILE} is not a signature of {METADATA_FILE} with this key")
    source = f"{version.version}/{METADATA_FILE}"
    if parse_manifest(parse_json(metadata, source), source) != version.manifest:
        raise IntegrityError(f"{version.version}: {METADATA_FILE} changed while it was read")


def _metadata(version: ModelVersion) -> bytes:
    try:
        return (version.path / METADATA_FILE).read_bytes()
    except OSError as error:
        raise IntegrityError(f"{version.version}/{METADATA_FILE} cannot be read: {error.strerror or error}") from error


def _digest(metadata: bytes, key: bytes) -> str:
    """HMAC-SHA256 (RFC 2104), with a prefix so that a key that is used elsewhere too signs nothing here."""
    return hmac.digest(key, b"abfleet model\0" + metadata, "sha256").hex()
