"""Finds versions and aliases in a registry folder, and says whether their files are intact. Reads only, runs no model.

The folder is the truth: a version is a folder with model.onnx and metadata.json, an alias is a link to one, and what is
under archive/ is kept but not served. registry.json is the register of what was released, and is compared with the
folders by `check`; serving does not depend on it.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from abfleet_models.errors import (
    IntegrityError,
    ManifestError,
    RegistryError,
    UnknownVersionError,
    UnsafePathError,
    shown,
)
from abfleet_models.graph.reading import STANDARD_DOMAINS, GraphFile, NotOnnxError, read_graph
from abfleet_models.item_names import ITEMS_FILE, read_names
from abfleet_models.json_files import read_json
from abfleet_models.manifest import (
    NAME_RULE,
    Index,
    Manifest,
    Metrics,
    is_name,
    parse_index,
    parse_manifest,
    parse_metrics,
)
from abfleet_models.signature import differences

__all__ = [
    "ALIASES",
    "ARCHIVE",
    "IntegrityError",
    "ManifestError",
    "ModelVersion",
    "Registry",
    "RegistryError",
    "UnknownVersionError",
    "UnsafePathError",
]

ALIASES = ("production", "staging")
"""The aliases that releases move; any other link to a version is an alias too."""
ARCHIVE = "archive"
MODEL_FILE = "model.onnx"
METADATA_FILE = "metadata.json"
METRICS_FILE = "metrics.json"
INDEX_FILE = "registry.json"
JOURNAL_FILE = ".release.json"
"""There only while a release is being made; one that was killed leaves it to the next release, which finishes it."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version in a registry; its folder's files may change on disk, this value does not."""

    version: str
    path: Path
    """The version's folder, never a link."""
    manifest: Manifest
    archived: bool = False

    @property
    def model_path(self) -> Path:
        """The path of model.onnx; its bytes are not verified."""
        return self.path / MODEL_FILE

    def read_verified(self) -> bytes:
        """The bytes of model.onnx, known to be those that metadata.json describes.

        Load a session from these bytes and not from `model_path`: then no change of the file in between can slip in.
        (For weights in `external_data`, tell the session this folder:
        `session.model_external_initializers_file_folder_path`.) Raises IntegrityError when sha256 or signature differ
        or an operator is not a standard one, UnsafePathError when the file or its data lie elsewhere.
        """
        content = _read_file(self.path, MODEL_FILE)
        found = hashlib.sha256(content).hexdigest()
        if found != self.manifest.sha256:
            raise IntegrityError(
                f"{self.version}: {MODEL_FILE} has sha256 {found}, {METADATA_FILE} says {self.manifest.sha256}"
            )
        self._check_graph(content)
        self._items()
        return content

    def item_names(self) -> tuple[str, ...] | None:
        """The names of items 1, 2, 3 and so on; None where items have numbers. Raises IntegrityError."""
        content = self._items()
        return None if content is None else read_names(content)

    def _items(self) -> bytes | None:
        """items.txt, known to be the one that metadata.json describes; None where there is none."""
        if not self.manifest.items_sha256:
            return None
        content = _read_file(self.path, ITEMS_FILE)
        if hashlib.sha256(content).hexdigest() != self.manifest.items_sha256:
            raise IntegrityError(f"{self.version}: {ITEMS_FILE} has a different sha256 than in {METADATA_FILE}")
        return content

    def verify_file(self) -> None:
        """Checks model.onnx against metadata.json as `read_verified` does; raises RegistryError on a difference."""
        self.read_verified()

    def _check_graph(self, content: bytes) -> None:
        """Checks what the graph asks for: the signature, ONNX Runtime's own operators, files that are vouched for."""
        try:
            graph = read_graph(content)
        except NotOnnxError as error:
            raise IntegrityError(f"{self.version}: {MODEL_FILE} {error}") from error
        signature = self.manifest.signature
        differing = [
            *differences(graph.inputs, signature.inputs, "input"),
            *differences(graph.outputs, signature.outputs, "output"),
        ]
        if differing:
            raise IntegrityError(f"{self.version}: {'; '.join(differing)}")
        refuse_custom(self.version, graph)
        vouched = dict(self.manifest.external_data)
        for location in sorted(graph.external):
            if location not in vouched:
                raise UnsafePathError(
                    f"{self.version}: weights are in {shown(location)}, which is missing from external_data"
                )
            if hashlib.sha256(_read_file(self.path, location)).hexdigest() != vouched[location]:
                raise IntegrityError(f"{self.version}: {location} has a different sha256 than in external_data")

    def metrics(self) -> Metrics | None:
        """The offline metrics, None where the version has no metrics.json."""
        if not os.path.lexists(self.path / METRICS_FILE):
            return None
        return parse_metrics(
            read_json(_inside(self.path, METRICS_FILE), f"{self.version}/{METRICS_FILE}"),
            f"{self.version}/{METRICS_FILE}",
        )


class Registry:
    """A registry folder. Holds no state but its place: every call reads the folder as it is now."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"Registry({str(self.root)!r})"

    def resolve(self, name: str) -> ModelVersion:
        """The version called `name`, or the one that the alias `name` points to now.

        Raises UnknownVersionError, UnsafePathError or ManifestError, all of them RegistryErrors.
        """
        if not is_name(name):
            raise UnsafePathError(f"model {shown(name)} is not a version or an alias; allowed: {NAME_RULE}")
        self._check_root()
        if name == ARCHIVE or not os.path.lexists(self.root / name):
            raise UnknownVersionError(f"model {shown(name)} is not in the registry; {self._offer(name)}")
        return self._open(self._target(name) if (self.root / name).is_symlink() else name, self.root)

    def archived(self, version: str) -> ModelVersion:
        """A version that is kept under archive/. Raises as `resolve` does."""
        if not is_name(version):
            raise UnsafePathError(f"model {shown(version)} is not a version; allowed: {NAME_RULE}")
        if not os.path.lexists(self.root / ARCHIVE / version):
            raise UnknownVersionError(f"model {shown(version)} is not in the archive")
        return self._open(version, _folder(self.root, ARCHIVE), archived=True)

    def versions(self) -> list[str]:
        """Names of the served versions, sorted."""
        self._check_root()
        return _version_folders(self.root)

    def archived_versions(self) -> list[str]:
        """Names of the versions under archive/, sorted."""
        if not os.path.lexists(self.root / ARCHIVE):
            return []
        return _version_folders(_folder(self.root, ARCHIVE))

    def aliases(self) -> dict[str, str]:
        """Alias to version. Raises UnsafePathError when a link leads anywhere but to a version of this registry."""
        self._check_root()
        links = sorted(item.name for item in self.root.iterdir() if item.is_symlink() and is_name(item.name))
        return {name: self._target(name) for name in links}

    def index(self) -> Index:
        """registry.json. Raises ManifestError when it is missing or wrong."""
        return parse_index(read_json(self.root / INDEX_FILE, INDEX_FILE), INDEX_FILE)

    def check(self) -> list[str]:
        """What is wrong with the registry as a whole: broken aliases, and differences from registry.json."""
        try:
            self.aliases()
            index = self.index()
        except RegistryError as error:
            return [str(error)]
        problems = []
        here = dict.fromkeys(self.versions(), self.resolve) | dict.fromkeys(self.archived_versions(), self.archived)
        listed = {entry.version: entry for entry in index.models}
        for version in sorted((here.keys() | listed.keys()) - self._on_its_way()):
            if version not in listed:
                problems.append(f"{INDEX_FILE}: {version} has a folder but is not listed")
            elif version not in here:
                problems.append(f"{INDEX_FILE}: {version} is listed but has no folder")
            else:
                try:
                    same = here[version](version).manifest.sha256 == listed[version].sha256
                except RegistryError:
                    continue  # reported with the version itself
                if not same:
                    problems.append(
                        f"{INDEX_FILE}: {version} is listed with a different sha256 than in its {METADATA_FILE}"
                    )
        return problems

    def _on_its_way(self) -> set[str]:
        """The version of a release that has begun: its folder and registry.json come one after the other."""
        try:
            event = read_json(self.root / JOURNAL_FILE, JOURNAL_FILE)["event"]
            return {str(event["version"])}
        except (RegistryError, KeyError, TypeError):
            return set()

    def _check_root(self) -> None:
        if not self.root.is_dir():
            raise RegistryError(f"registry {shown(str(self.root))} is not a folder")

    def _offer(self, name: str) -> str:
        if os.path.lexists(self.root / ARCHIVE / name) and name != ARCHIVE:
            return "it is archived, and archived versions are not served; restore it first"
        names = [*_version_folders(self.root), *(link.name for link in self.root.iterdir() if link.is_symlink())]
        return f"it has {', '.join(sorted(names)[:20])}" if names else "the registry is empty"

    def _target(self, alias: str) -> str:
        """The version that a link names. Reads the link once, so that a release in between cannot mix two versions."""
        target = os.readlink(self.root / alias)
        version = target.removeprefix("./").rstrip("/")
        if not is_name(version) or version == ARCHIVE or (self.root / version).is_symlink():
            raise UnsafePathError(f"alias {alias} points to {shown(target)}, which is not a version of this registry")
        if not (self.root / version).is_dir():
            raise UnknownVersionError(f"alias {alias} points to {shown(version)}, which is not in the registry")
        return version

    def _open(self, version: str, parent: Path, *, archived: bool = False) -> ModelVersion:
        folder = _folder(parent, version)
        source = f"{version}/{METADATA_FILE}"
        manifest = parse_manifest(read_json(_inside(folder, METADATA_FILE), source), source)
        if manifest.version != version:
            raise ManifestError(source, [f"version: {shown(manifest.version)} is not the folder's name {version!r}"])
        _inside(folder, MODEL_FILE)
        return ModelVersion(version, folder, manifest, archived)


def refuse_custom(version: str, graph: GraphFile) -> None:
    """Raises IntegrityError where a graph has operators that ONNX Runtime does not bring itself."""
    custom = sorted(graph.domains - STANDARD_DOMAINS)
    if custom:
        raise IntegrityError(
            f"{version}: operators of domain {shown(custom[0])} are custom; allowed: standard operators"
        )


def _version_folders(folder: Path) -> list[str]:
    return sorted(
        item.name
        for item in folder.iterdir()
        if is_name(item.name) and not item.is_symlink() and (item / METADATA_FILE).is_file() and item.name != ARCHIVE
    )


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    if folder.is_symlink() or not folder.is_dir():
        raise UnsafePathError(f"{name} is not a real folder in the registry")
    return folder


def _inside(folder: Path, name: str) -> Path:
    """The file `name` in `folder`, which must be a regular file there and no link."""
    path = folder / name
    if path.is_symlink():
        raise UnsafePathError(f"{folder.name}/{name} is a link; a version must have its own files")
    if not path.is_file():
        raise IntegrityError(f"{folder.name}/{name} is missing")
    return path


def _read_file(folder: Path, name: str) -> bytes:
    try:
        return _inside(folder, name).read_bytes()
    except OSError as error:
        raise IntegrityError(f"{folder.name}/{name} cannot be read: {error.strerror or error}") from error
