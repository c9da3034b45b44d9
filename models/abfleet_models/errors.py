"""The errors of a registry. Each message is one line for a person."""


def shown(value: object) -> str:
    """`value` as an error quotes it: on one line, cut to 64 characters; of a long list or object only what it is."""
    text = repr(value)
    if len(text) <= 64:
        return text
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    return text[:61] + "..."


class RegistryError(Exception):
    """A registry, a version in it or its files are not as they must be; the message is one line for a person."""


class UnknownVersionError(RegistryError):
    """No version and no alias has that name."""


class UnsafePathError(RegistryError):
    """A name, link or file would lead outside the registry or outside the version's own folder."""


class ManifestError(RegistryError):
    """metadata.json, metrics.json or registry.json breaks its schema; `problems` has every field that does."""

    def __init__(self, source: str, problems: list[str]) -> None:
        super().__init__(f"{source}: {'; '.join(problems)}")
        self.source = source
        self.problems = tuple(problems)


class IntegrityError(RegistryError):
    """A file is not the one that its metadata describes, or a model does not answer as it did when it was released."""


class BusyError(RegistryError):
    """Another process is changing the registry."""


class ReleaseError(RegistryError):
    """A release is not allowed; the registry is unchanged."""
