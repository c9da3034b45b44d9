"""Certificates for tests, made by the openssl program: right ones, and wrong ones of every kind."""

import shutil
import subprocess
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the program openssl is not installed")


def openssl(*arguments: str | Path, folder: Path) -> str:
    """Runs openssl in a folder; what it prints."""
    words = ["openssl", *map(str, arguments)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


class Authority:
    """A certificate authority in a folder of its own."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca = folder / f"{name}.crt"
        self._name = name
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3"),
            *("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.crt"),
            folder=folder,
        )

    def issue(
        self, name: str, alternative: str = "DNS:localhost,IP:127.0.0.1", *, common_name: str = "", days: int = 3
    ) -> tuple[Path, Path]:
        """Certificate and key as NAME.crt and NAME.key, replacing those that are there; negative days: it is over."""
        folder = self.folder
        openssl(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={common_name or name}", "-keyout", f"{name}.key.new", "-out", f"{name}.csr"),
            folder=folder,
        )
        extensions = folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative}\n" if alternative else "basicConstraints=CA:FALSE\n")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{self._name}.crt", "-CAkey", f"{self._name}.key"),
            *("-CAcreateserial", "-days", str(days), "-extfile", extensions, "-out", f"{name}.crt.new"),
            folder=folder,
        )
        for kind in ("key", "crt"):
            (folder / f"{name}.{kind}.new").replace(folder / f"{name}.{kind}")
        return folder / f"{name}.crt", folder / f"{name}.key"
