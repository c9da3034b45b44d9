"""What shows that files have changed."""

import os
from pathlib import Path

from abfleet_process.file_state import file_state, file_states


def test_every_change_shows(tmp_path: Path) -> None:
    """Size, time and name of each file, in folders in folders too; what is not there has a state as well."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    seen = {file_states([tmp_path])}
    file = folder / "x.parquet"
    file.write_text("1")
    seen.add(file_states([tmp_path]))
    assert file_states([tmp_path]) in seen
    with file.open("a") as longer:
        longer.write("2")
    seen.add(file_states([tmp_path]))
    os.utime(file, ns=(1, 1))
    seen.add(file_states([tmp_path]))
    file.rename(folder / "y.parquet")
    seen.add(file_states([tmp_path]))
    seen.add(file_states([tmp_path / "nowhere"]))
    assert len(seen) == 6


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    """Kubernetes swaps the files of a secret or a ConfigMap by one link, with the same names, sizes and times."""
    for name in ("one", "two"):
        (tmp_path / name).write_text("1")
        os.utime(tmp_path / name, ns=(1, 1))
    link = tmp_path / "link"
    link.symlink_to("one")
    before = file_state(link)
    link.unlink()
    assert file_state(link) != before
    link.symlink_to("two")
    assert file_state(link) != before
