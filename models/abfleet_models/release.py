"""Releases: moves aliases and versions of a registry on disk, and keeps the trail of it (IO). Runs no model.

Readers never see half a change. One release is at most one rename that readers can see, and then the line in
registry.json. What is about to be done is first written to a journal, so that a release that is killed at any point has
either not begun, or is finished by the next one: link or folder and trail always come to agree.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from abfleet_process.counting import listed

from abfleet_models import disk, trail
from abfleet_models.disk import Json, to_json
from abfleet_models.errors import IntegrityError, ReleaseError, UnknownVersionError, shown
from abfleet_models.item_names import ITEMS_FILE
from abfleet_models.json_files import parse_json, read_json
from abfleet_models.manifest import NAME_RULE, SCHEMA, is_name, parse_index, parse_manifest, parse_metrics
from abfleet_models.registry import (
    ALIASES,
    ARCHIVE,
    INDEX_FILE,
    JOURNAL_FILE,
    METADATA_FILE,
    METRICS_FILE,
    MODEL_FILE,
    ModelVersion,
    Registry,
)
from abfleet_models.trail import ReleaseEvent

__all__ = ["Release", "install", "point", "to_json"]


class Release:
    """The right to change a registry, held from `begin` to the end of its `with`: one change after the other.

    `finished` is what an earlier release had begun and this one brought to its end, None where there was nothing.
    """

    def __init__(
        self, root: Path, now: datetime, by: str | None, reason: str | None, finished: ReleaseEvent | None
    ) -> None:
        self.registry = Registry(root)
        self.finished = finished
        self._root, self._now, self._by, self._reason = root, now, by, reason

    @classmethod
    @contextmanager
    def begin(
        cls, root: Path, *, now: datetime, by: str | None = None, reason: str | None = None
    ) -> Iterator["Release"]:
        """Takes the lock, and finishes what was left unfinished. Raises BusyError, RegistryError or OSError."""
        Registry(root).versions()  # says what is wrong with the folder, where it is none
        if reason is not None and len(reason) > trail.MAX_REASON:
            raise ReleaseError(f"reason: {shown(reason)} is too long; allowed: {trail.MAX_REASON} characters")
        with disk.only_writer(root):
            yield cls(root, now, by, reason, _recover(root))

    def promote(self, version: str, *, alias: str) -> ReleaseEvent | None:
        """Lets `alias` lead to `version`, which the caller has verified. None where it does already."""
        if alias not in ALIASES:
            raise ReleaseError(f"alias: {shown(alias)} cannot be promoted to; allowed: {', '.join(ALIASES)}")
        found, was = self.registry.resolve(version), self._led_to(alias)
        if found.version == was:
            return None
        return self._do(trail.PROMOTED, found, alias=alias, was=was)

    def rollback_target(self, alias: str) -> ModelVersion:
        """Where a rollback would lead. Raises ReleaseError where the trail knows no earlier version that is served."""
        current = self._led_to(alias)
        if current is None:
            raise ReleaseError(f"alias: {shown(alias)} is not in the registry, so it cannot be rolled back")
        version = trail.before(_index(self._root)["log"], alias, current)
        if version is None:
            raise ReleaseError(f"{alias} points to {current}, and {INDEX_FILE} has no version before it; use promote")
        try:
            return self.registry.resolve(version)
        except UnknownVersionError as error:
            raise ReleaseError(f"{alias} cannot be rolled back: {error}") from error

    def rollback(self, alias: str) -> ReleaseEvent:
        """Lets `alias` lead where it led before its last promotion; a second rollback goes back further."""
        return self._do(trail.ROLLED_BACK, self.rollback_target(alias), alias=alias, was=self._led_to(alias))

    def archive(self, version: str) -> ReleaseEvent:
        """Moves a version under archive/, kept and not served. Raises ReleaseError while an alias points to it."""
        found = self.registry.resolve(version)
        if found.version != version:
            raise ReleaseError(f"{version} is an alias; only versions can be archived")
        if leading := sorted(alias for alias, target in self.registry.aliases().items() if target == version):
            raise ReleaseError(
                f"{version} cannot be archived, because {listed(leading)} "
                f"{'points' if len(leading) == 1 else 'point'} to it"
            )
        if version in self.registry.archived_versions():
            raise ReleaseError(f"{version} cannot be archived: the archive already has a version of that name")
        return self._do(trail.ARCHIVED, found)

    def restore(self, version: str) -> ReleaseEvent:
        """Moves a version back from archive/, to be served again."""
        found = self.registry.archived(version)
        if os.path.lexists(self._root / version):
            raise ReleaseError(f"{version} cannot be restored: the registry already has an entry of that name")
        return self._do(trail.RESTORED, found)

    def add(self, files: Mapping[str, bytes], *, measured: Json | None = None) -> ReleaseEvent:
        """Puts a new version into the registry; `files` are its files by name, which the caller has verified.

        `measured` is kept beside the version in registry.json. Raises ManifestError and ReleaseError.
        """
        metrics = None
        manifest = parse_manifest(parse_json(files[METADATA_FILE], METADATA_FILE))
        if METRICS_FILE in files:
            metrics = parse_metrics(parse_json(files[METRICS_FILE], METRICS_FILE))
            if metrics.version != manifest.version:
                raise ReleaseError(f"{METRICS_FILE}: version {shown(metrics.version)} is not {manifest.version}")
        self._refuse_taken(manifest.version)
        values = {key: round(value, 4) for key, value in metrics.values} if metrics else {}
        entry = {
            "version": manifest.version,
            "algorithm": manifest.algorithm,
            "sha256": manifest.sha256,
            "metrics": values,
            **(measured or {}),
        }
        disk.prepare_folder(_prepared(self._root, manifest.version), files)
        event = self._event(trail.ADDED, manifest.version, manifest.sha256)
        return _carry_out(self._root, event, entry)

    def _refuse_taken(self, version: str) -> None:
        if version in (ARCHIVE, *ALIASES):
            raise ReleaseError(f"version: {shown(version)} is a reserved name; choose another one")
        if os.path.lexists(self._root / version) or version in self.registry.archived_versions():
            raise ReleaseError(
                f"version: {version} is already in the registry, and a version never changes; choose another name"
            )

    def _led_to(self, alias: str) -> str | None:
        """The version that an alias points to, even one that no longer exists; None without the alias."""
        if not is_name(alias):
            raise ReleaseError(f"alias: {shown(alias)} is not an alias; allowed: {NAME_RULE}")
        link = self._root / alias
        return Path(os.readlink(link)).name if link.is_symlink() else None

    def _do(self, what: str, found: ModelVersion, *, alias: str | None = None, was: str | None = None) -> ReleaseEvent:
        event = self._event(what, found.version, found.manifest.sha256, alias=alias, was=was)
        return _carry_out(self._root, event, None)

    def _event(
        self, what: str, version: str, sha256: str, *, alias: str | None = None, was: str | None = None
    ) -> ReleaseEvent:
        return ReleaseEvent(
            at=trail.stamp(self._now),
            event=what,
            version=version,
            sha256=sha256,
            alias=alias,
            was=was,
            by=self._by,
            reason=self._reason,
        )


def install(
    root: Path,
    *,
    model: bytes,
    metadata: Json,
    metrics: Json,
    archived: bool,
    now: datetime,
    items: bytes | None = None,
) -> str:
    """Puts a version into the registry, and says what that was: "new", "rebuilt" or "unchanged".

    `items`: items.txt, where items have names.

    A version that is there with the same files stays as it is. With other files it is replaced; for the instant between
    two renames its folder is then missing, so replace a version that nothing serves, or give it another name.
    Raises ManifestError when the metadata breaks the schema, and writes nothing then.
    """
    manifest = parse_manifest(metadata)
    parent = root / ARCHIVE if archived else root
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / manifest.version
    files = {
        MODEL_FILE: model,
        METADATA_FILE: to_json(metadata).encode(),
        METRICS_FILE: to_json(metrics).encode(),
        **({} if items is None else {ITEMS_FILE: items}),
    }
    values = {key: round(value, 4) for key, value in metrics["metrics"].items()}
    entry = {"version": manifest.version, "algorithm": manifest.algorithm, "sha256": manifest.sha256, "metrics": values}
    with disk.only_writer(root):
        _recover(root)
        outcome = "new"
        if os.path.lexists(folder):
            outcome = "unchanged" if _same(folder, files) else "rebuilt"
        if outcome != "unchanged":
            disk.put_folder(folder, files)
        index = _index(root)
        known = [item for item in index["models"] if item["version"] == manifest.version]
        if outcome != "unchanged" or known != [entry]:
            what = "rebuilt" if known else trail.ADDED
            event = ReleaseEvent(at=trail.stamp(now), event=what, version=manifest.version, sha256=manifest.sha256)
            _write_index(root, index, event, entry)
    return outcome


def point(root: Path, alias: str, version: str) -> None:
    """Lets an alias lead to a version, without a line in the trail: for a registry that is being made."""
    if not (root / version / METADATA_FILE).is_file():
        raise UnknownVersionError(f"model {shown(version)} is not in the registry, so {alias} cannot point to it")
    disk.put_link(root / alias, version)


def _carry_out(root: Path, event: ReleaseEvent, entry: Json | None) -> ReleaseEvent:
    """Writes the journal and applies it; from then on this process or the next one completes the release."""
    journal = {"schema": SCHEMA, "event": event.to_dict(), "entry": entry}
    disk.put_file(root / JOURNAL_FILE, to_json(journal).encode())
    _apply(root, event, entry)
    return event


def _apply(root: Path, event: ReleaseEvent, entry: Json | None) -> None:
    """Does what is still to be done of an event. May be repeated at any point: what is done is not done again."""
    version = event.version
    if event.event in trail.LINK_EVENTS:
        link = root / str(event.alias)
        if not (link.is_symlink() and os.readlink(link) == version):
            disk.put_link(link, version)
    else:
        if event.event == trail.ARCHIVED:
            (root / ARCHIVE).mkdir(exist_ok=True)
        source, target = {
            trail.ARCHIVED: (root / version, root / ARCHIVE / version),
            trail.RESTORED: (root / ARCHIVE / version, root / version),
            trail.ADDED: (_prepared(root, version), root / version),
        }[event.event]
        if not os.path.lexists(target):
            disk.move(source, target)
    index = _index(root)
    if not index["log"] or index["log"][-1] != event.to_dict():
        _write_index(root, index, event, entry)
    (root / JOURNAL_FILE).unlink()
    disk.sync_folder(root)


def _recover(root: Path) -> ReleaseEvent | None:
    """Completes a killed release that has a journal, and removes what one without a journal prepared."""
    disk.sweep(root)
    if (root / ARCHIVE).is_dir():
        disk.sweep(root / ARCHIVE)
    event = None
    if os.path.lexists(root / JOURNAL_FILE):
        event, entry = _journal(root)
        _apply(root, event, entry)
    for path in root.glob(f".*{PREPARED}"):
        disk.remove(path)
    return event


def _journal(root: Path) -> tuple[ReleaseEvent, Json | None]:
    """The journal, checked because anybody may have written the file. Raises IntegrityError."""
    found = read_json(root / JOURNAL_FILE, JOURNAL_FILE)
    try:
        event = ReleaseEvent.from_dict(found["event"])
        good = event.event in trail.EVENTS and is_name(event.version) and (event.alias is None or is_name(event.alias))
        if not good or (event.event in trail.LINK_EVENTS) != (event.alias is not None):
            raise ValueError(event.event)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{JOURNAL_FILE} is not a journal of a release; look at the file, then remove it"
        ) from error
    return event, found.get("entry")


PREPARED = ".prepared"


def _prepared(root: Path, version: str) -> Path:
    """The hidden folder with the files of a version that is being added."""
    if not is_name(version):
        raise ReleaseError(f"version: {shown(version)} is not a version; allowed: {NAME_RULE}")
    return root / f".{version}{PREPARED}"


def _index(root: Path) -> dict[str, Any]:
    """registry.json as it is written, an empty one where there is none. Raises ManifestError."""
    index: dict[str, Any] = {"schema": SCHEMA, "models": [], "log": []}
    if (root / INDEX_FILE).exists():
        index |= read_json(root / INDEX_FILE, INDEX_FILE)
        parse_index(index)
    return index


def _write_index(root: Path, index: Json, event: ReleaseEvent, entry: Json | None) -> None:
    models = list(index["models"])
    if entry is not None:
        others = [item for item in models if item["version"] != entry["version"]]
        models = sorted([*others, dict(entry)], key=lambda item: str(item["version"]))
    changed = {**index, "models": models, "log": [*index["log"], event.to_dict()]}
    disk.put_file(root / INDEX_FILE, to_json(changed).encode())


def _same(folder: Path, files: Mapping[str, bytes]) -> bool:
    return not folder.is_symlink() and all(
        (folder / name).is_file() and (folder / name).read_bytes() == content for name, content in files.items()
    )
