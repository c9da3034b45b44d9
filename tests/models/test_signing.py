"""Signatures of versions: what was signed is served, anything else is not, whoever wrote it."""

import json
from pathlib import Path

import pytest
from abfleet_models import signing
from abfleet_models.errors import IntegrityError, RegistryError
from abfleet_models.registry import Registry
from abfleet_worker.errors import ModelLoadError
from abfleet_worker.model import load
from typer.testing import CliRunner

from abfleet.cli import app
from tests.models.forge import edit_json, edit_model

KEY = b"k" * 32
VERSION = "v1.2.3"


def test_a_signed_version_is_served(registry: Registry) -> None:
    """By a worker that has the key, and by one that has none."""
    signing.sign(registry.resolve(VERSION), KEY)
    signing.check(registry.resolve(VERSION), KEY)
    assert load(registry.root, "production", signing_key=KEY).version == VERSION
    assert load(registry.root, "production").version == VERSION


def test_what_is_not_signed_is_not_served(registry: Registry) -> None:
    """The message says how to sign it."""
    with pytest.raises(ModelLoadError, match=f"{VERSION} is not signed; sign it with abfleet models sign {VERSION}"):
        load(registry.root, VERSION, signing_key=KEY)


def test_another_key_signs_nothing(registry: Registry) -> None:
    """Whoever has no key cannot make a version that is served."""
    signing.sign(registry.resolve(VERSION), b"x" * 32)
    with pytest.raises(IntegrityError, match=r"is not a signature of metadata\.json with this key"):
        signing.check(registry.resolve(VERSION), KEY)


def test_a_model_that_was_exchanged_is_not_served(registry: Registry) -> None:
    """Not even with metadata that vouch for it: they are what is signed."""
    found = registry.resolve(VERSION)
    signing.sign(found, KEY)
    edit_model(found.path, lambda model: setattr(model, "producer_name", "somebody else"))
    registry.resolve(VERSION).verify_file()
    with pytest.raises(ModelLoadError, match=r"is not a signature of metadata\.json"):
        load(registry.root, VERSION, signing_key=KEY)


def test_a_signature_of_another_version_is_none(registry: Registry) -> None:
    """It cannot be carried over."""
    signing.sign(registry.resolve(VERSION), KEY)
    other = registry.resolve("v1.3.0-beta")
    content = (registry.resolve(VERSION).path / signing.SIGNATURE_FILE).read_bytes()
    (other.path / signing.SIGNATURE_FILE).write_bytes(content)
    with pytest.raises(IntegrityError, match="is not a signature"):
        signing.check(other, KEY)


def test_metadata_that_changed_after_they_were_read(registry: Registry) -> None:
    """What was checked is what is used."""
    found = registry.resolve(VERSION)
    edit_json(found.path / "metadata.json", lambda data: data.update(seed=data["seed"] + 1))
    signing.sign(registry.resolve(VERSION), KEY)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        signing.check(found, KEY)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"0" * 64, b"\n"])
def test_files_that_are_no_signature(registry: Registry, content: bytes) -> None:
    """An IntegrityError, and nothing else."""
    found = registry.resolve(VERSION)
    (found.path / signing.SIGNATURE_FILE).write_bytes(content)
    with pytest.raises(IntegrityError, match=r"metadata\.json\.hmac"):
        signing.check(found, KEY)


def test_a_signature_that_is_a_link_is_none(registry: Registry, tmp_path: Path) -> None:
    """A version's files are its own."""
    found = registry.resolve(VERSION)
    signing.sign(found, KEY)
    file = found.path / signing.SIGNATURE_FILE
    file.rename(tmp_path / "moved")
    file.symlink_to(tmp_path / "moved")
    with pytest.raises(IntegrityError, match="is not signed"):
        signing.check(found, KEY)


def test_a_broken_version_is_not_signed(registry: Registry) -> None:
    """Nobody signs by mistake what would not be served anyway."""
    found = registry.resolve(VERSION)
    with (found.path / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(RegistryError, match="sha256"):
        signing.sign(found, KEY)


def test_keys(tmp_path: Path) -> None:
    """White space at the ends does not count; a short or missing key is an error that names the file."""
    path = tmp_path / "key"
    path.write_bytes(b"0123456789abcdef\n")
    assert signing.read_key(path) == b"0123456789abcdef"
    path.write_bytes(b"0123456789abcde \n")
    with pytest.raises(RegistryError, match="key has 15 bytes; it must have 16 or more"):
        signing.read_key(path)
    with pytest.raises(RegistryError, match="missing: No such file"):
        signing.read_key(tmp_path / "missing")


def test_the_commands(registry: Registry, tmp_path: Path) -> None:
    """`models sign` signs, `models verify --key-file` tells what is signed from what is not."""
    key = tmp_path / "key"
    key.write_bytes(KEY)
    where = ["--registry", str(registry.root), "--key-file", str(key)]
    run = CliRunner().invoke
    refused = run(app, ["models", "verify", VERSION, *where, "--json"])
    assert refused.exit_code == 1
    assert "is not signed" in json.loads(refused.stdout)["results"][0]["message"]
    signed = run(app, ["models", "sign", VERSION, *where])
    assert signed.exit_code == 0, signed.output
    assert signed.stdout.startswith(f"{VERSION} is signed: ")
    verified = run(app, ["models", "verify", VERSION, *where])
    assert verified.exit_code == 0, verified.output
    assert "signed, sha256" in verified.stdout
    key.write_bytes(b"short")
    wrong = run(app, ["models", "verify", VERSION, *where])
    assert wrong.exit_code == 2
    assert "it must have 16 or more" in wrong.stderr
