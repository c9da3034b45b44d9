"""A disk under the decision log that is full until somebody makes room. Replaces what writes a file's bytes."""

import pytest
from abfleet_log.writer import sinks


class FullDisk:
    """Takes nothing while `full`; changed by whoever tests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        real = sinks.write

        def write(file: int, chunk: bytes, *system: object) -> tuple[int, OSError | None]:
            return (0, OSError(28, "No space left on device")) if self.full else real(file, chunk)

        monkeypatch.setattr(sinks, "write", write)
