"""Registry folders: what resolves, what is refused because it leads outside, and what `verify` notices."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from abfleet_models.errors import IntegrityError, ManifestError, RegistryError, UnknownVersionError, UnsafePathError
from abfleet_models.golden.verification import verify_golden
from abfleet_models.registry import Registry
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.models.conftest import COMMITTED
from tests.models.forge import edit_json, edit_model, move_outside, replace_model


def test_versions_and_aliases_resolve(registry: Registry) -> None:
    """A version resolves to itself and an alias to the version it leads to, with the folder that is no link."""
    assert registry.versions() == ["v1.2.3", "v1.3.0-beta", "v1.4.0-rc1"]
    assert registry.archived_versions() == ["v1.2.2"]
    assert registry.aliases() == {"production": "v1.2.3", "staging": "v1.3.0-beta"}
    production = registry.resolve("production")
    assert production == registry.resolve("v1.2.3")
    assert production.version == "v1.2.3"
    assert not production.path.is_symlink()
    assert production.model_path == registry.root / "v1.2.3" / "model.onnx"
    assert registry.archived("v1.2.2").archived
    assert registry.check() == []


def test_an_alias_is_followed_anew_each_time(registry: Registry) -> None:
    """A link that was moved leads elsewhere at the next call; what was resolved before stays as it was."""
    before = registry.resolve("production")
    (registry.root / "production").unlink()
    (registry.root / "production").symlink_to("v1.4.0-rc1/")
    assert registry.resolve("production").version == "v1.4.0-rc1"
    assert before.version == "v1.2.3"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../outside",
        "/etc",
        "v1.2.3/../v1.2.3",
        "a/b",
        "a\\b",
        ".hidden",
        "-x",
        "a\0b",
        "a\nb",
        "ü",
        "x" * 65,
    ],
)
def test_names_that_are_no_names_are_refused(registry: Registry, name: str) -> None:
    """Nothing but a plain name reaches the file system, for served and archived versions alike."""
    for lookup in (registry.resolve, registry.archived):
        with pytest.raises(UnsafePathError, match="allowed: 1 to 64 of") as raised:
            lookup(name)
        assert len(str(raised.value)) < 250
        assert "\n" not in str(raised.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(
    name=st.one_of(
        st.text(max_size=80), st.from_regex(r"(\.\./|v1\.2\.3|/|archive|production|\.){1,4}", fullmatch=True)
    )
)
def test_no_name_leads_outside(registry: Registry, name: str) -> None:
    """Whatever the name, the answer is one of the registry's own versions or a RegistryError."""
    try:
        version = registry.resolve(name)
    except RegistryError:
        return
    assert version.path.resolve().parent == registry.root.resolve()


@pytest.mark.parametrize(
    "target", ["..", "../outside", "/tmp", "archive", "archive/v1.2.2", "staging", ".", "v1.2.3/.."]
)
def test_aliases_that_lead_elsewhere_are_refused(registry: Registry, target: str) -> None:
    """A link counts only when it names a version of this registry: no path, no archive, no other link."""
    (registry.root / "production").unlink()
    (registry.root / "production").symlink_to(target)
    with pytest.raises(UnsafePathError, match="alias production points to"):
        registry.resolve("production")
    assert "alias production points to" in registry.check()[0]


def test_unknown_names_say_what_there_is(registry: Registry) -> None:
    """The message for an unknown name lists what exists, and tells archived and dangling ones apart."""
    with pytest.raises(UnknownVersionError, match=r"'v9' is not in the registry; it has production, staging, v1\.2\.3"):
        registry.resolve("v9")
    with pytest.raises(UnknownVersionError, match="it is archived"):
        registry.resolve("v1.2.2")
    with pytest.raises(UnknownVersionError, match="'archive' is not in the registry"):
        registry.resolve("archive")
    with pytest.raises(UnknownVersionError, match="not in the archive"):
        registry.archived("v9")
    (registry.root / "next").symlink_to("v9")
    with pytest.raises(UnknownVersionError, match="alias next points to 'v9', which is not in the registry"):
        registry.resolve("next")
    with pytest.raises(RegistryError, match="is not a folder"):
        Registry(registry.root / "nowhere").resolve("v1.2.3")


def test_files_and_folders_that_are_links_are_refused(registry: Registry, tmp_path: Path) -> None:
    """A version's folder and files are its own: a link to the same content elsewhere is refused."""
    outside = tmp_path / "outside"
    shutil.copytree(registry.root / "v1.2.3", outside)
    model = registry.root / "v1.2.3" / "model.onnx"
    model.unlink()
    model.symlink_to(outside / "model.onnx")
    with pytest.raises(UnsafePathError, match=r"v1\.2\.3/model\.onnx is a link"):
        registry.resolve("v1.2.3")
    shutil.rmtree(registry.root / "archive")
    (registry.root / "archive").symlink_to(tmp_path)
    with pytest.raises(UnsafePathError, match="archive is not a real folder"):
        registry.archived("outside")
    with pytest.raises(UnsafePathError):
        registry.archived_versions()


def test_missing_files_are_named(registry: Registry) -> None:
    """A folder without its files says which one is missing."""
    (registry.root / "v1.2.3" / "model.onnx").unlink()
    with pytest.raises(IntegrityError, match=r"v1\.2\.3/model\.onnx is missing"):
        registry.resolve("v1.2.3")
    (registry.root / "v1.2.3" / "metadata.json").unlink()
    with pytest.raises(IntegrityError, match=r"v1\.2\.3/metadata\.json is missing"):
        registry.resolve("v1.2.3")


def test_metadata_of_another_version_is_refused(registry: Registry) -> None:
    """A folder that was copied under a new name is not that version."""
    shutil.copytree(registry.root / "v1.2.3", registry.root / "v2.0.0")
    with pytest.raises(ManifestError, match=r"version: 'v1\.2\.3' is not the folder's name 'v2\.0\.0'"):
        registry.resolve("v2.0.0")


def test_verify_notices_any_changed_byte(registry: Registry) -> None:
    """One flipped bit, one byte more, one byte less: sha256 differs, and the message names version and both sums."""
    found = registry.resolve("v1.3.0-beta")
    found.verify_file()
    good = found.model_path.read_bytes()
    assert found.read_verified() == good
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    for bad in (bytes(flipped), good + b"\0", good[:-1], b""):
        found.model_path.write_bytes(bad)
        with pytest.raises(
            IntegrityError, match=rf"v1\.3\.0-beta: model\.onnx has sha256 .* says {found.manifest.sha256}"
        ):
            found.verify_file()


def test_signature_of_the_graph_is_checked(registry: Registry) -> None:
    """A graph with another input name, or another k than metadata.json says, is refused though its sha256 is right."""
    folder = registry.root / "v1.2.3"
    edit_model(folder, lambda model: setattr(model.graph.input[0], "name", "things"))
    with pytest.raises(IntegrityError, match=r"input history is missing from the graph, which has things"):
        registry.resolve("v1.2.3").verify_file()

    def narrow(model: onnx.ModelProto) -> None:
        model.graph.output[1].type.tensor_type.shape.dim[1].dim_value = 3

    edit_model(registry.root / "v1.3.0-beta", narrow)
    with pytest.raises(
        IntegrityError, match=r"output scores: the graph's shape is \[-1, 3\], the signature's is \[-1, 40\]"
    ):
        registry.resolve("v1.3.0-beta").verify_file()


def test_names_of_a_graph_are_shown_on_one_line(registry: Registry) -> None:
    """A hostile name does not write lines of its own into an error, nor a page."""
    edit_model(registry.root / "v1.2.3", lambda model: setattr(model.graph.input[0], "name", "a\nb"))
    with pytest.raises(IntegrityError, match=r"which has 'a\\nb'; input 'a\\nb' of the graph"):
        registry.resolve("v1.2.3").verify_file()
    edit_model(registry.root / "v1.2.3", lambda model: setattr(model.graph.input[0], "name", "n" * 500))
    with pytest.raises(IntegrityError, match=r"'n{60}\.\.\.; input"):
        registry.resolve("v1.2.3").verify_file()


def test_custom_operators_are_refused(registry: Registry) -> None:
    """A node of an unknown domain, also one hidden in a subgraph, would need a custom library."""
    edit_model(registry.root / "v1.2.3", lambda model: setattr(model.graph.node[0], "domain", "evil.ops"))
    with pytest.raises(IntegrityError, match=r"domain 'evil\.ops' are custom"):
        registry.resolve("v1.2.3").verify_file()

    def hide(model: onnx.ModelProto) -> None:
        inner = onnx.helper.make_graph([onnx.helper.make_node("Run", [], ["x"], domain="evil.deep")], "inner", [], [])
        model.graph.node.append(onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner))

    edit_model(registry.root / "v1.3.0-beta", hide)
    with pytest.raises(IntegrityError, match=r"domain 'evil\.deep' are custom"):
        registry.resolve("v1.3.0-beta").verify_file()


@pytest.mark.parametrize("location", ["../../secret", "/etc/passwd", "weights.bin", "sub/weights.bin", ""])
def test_external_data_that_is_not_vouched_for_is_refused(registry: Registry, location: str) -> None:
    """sha256 covers model.onnx alone, so weights elsewhere count only when metadata.json lists them."""
    edit_model(registry.root / "v1.2.3", lambda model: move_outside(model, location))
    with pytest.raises(UnsafePathError, match="which is missing from external_data"):
        registry.resolve("v1.2.3").verify_file()


def test_listed_external_data_is_verified_and_runs(registry: Registry) -> None:
    """Weights beside model.onnx are served when their sha256 is listed, and refused when they change or are a link."""
    folder = registry.root / "v1.2.3"
    moved = []
    edit_model(folder, lambda model: moved.append(move_outside(model, "weights.bin")))
    weights = folder / "weights.bin"
    weights.write_bytes(moved[0])
    digest = hashlib.sha256(moved[0]).hexdigest()
    edit_json(folder / "metadata.json", lambda data: data.update(external_data={"weights.bin": digest}))
    verify_golden(registry.resolve("v1.2.3"))

    weights.write_bytes(moved[0] + b"\0")
    with pytest.raises(IntegrityError, match=r"weights\.bin has a different sha256"):
        registry.resolve("v1.2.3").verify_file()
    weights.rename(registry.root / "weights.bin")
    weights.symlink_to("../weights.bin")
    with pytest.raises(UnsafePathError, match=r"weights\.bin is a link"):
        registry.resolve("v1.2.3").verify_file()


def test_external_data_cannot_be_listed_outside_the_folder(registry: Registry) -> None:
    """metadata.json can only vouch for plain file names of its own folder."""
    entry = {"../secret": "0" * 64}
    edit_json(registry.root / "v1.2.3" / "metadata.json", lambda data: data.update(external_data=entry))
    with pytest.raises(ManifestError, match=r'external_data\["\.\./secret"\]: `\.\./secret` must be a plain file name'):
        registry.resolve("v1.2.3")


def test_golden_answers_notice_another_model(registry: Registry) -> None:
    """Metadata that vouches for a wrong model passes sha256 and signature, and fails on the golden answers."""
    other = registry.resolve("v1.4.0-rc1").model_path.read_bytes()
    replace_model(registry.root / "v1.2.3", other)
    found = registry.resolve("v1.2.3")
    found.verify_file()
    with pytest.raises(IntegrityError, match=r"v1\.2\.3: golden history \d+: item \d+ is \d+, not \d+"):
        verify_golden(found)


def test_golden_answers_notice_other_scores(registry: Registry) -> None:
    """The same items with scores a thousandth off are another model."""

    def nudge(data: dict[str, dict[str, list[list[float]]]]) -> None:
        data["golden"]["scores"][1][0] *= 1.001

    edit_json(registry.root / "v1.2.3" / "metadata.json", nudge)
    with pytest.raises(IntegrityError, match="golden history 1: score 1 is"):
        verify_golden(registry.resolve("v1.2.3"))


def test_check_compares_folders_with_the_register(registry: Registry) -> None:
    """registry.json, folders and metadata that disagree are all reported; serving does not depend on it."""
    edit_json(registry.root / "registry.json", lambda data: data["models"].pop(0))
    edit_json(registry.root / "registry.json", lambda data: data["models"][0].update(sha256="0" * 64))
    shutil.rmtree(registry.root / "v1.4.0-rc1")
    assert registry.check() == [
        "registry.json: v1.2.2 has a folder but is not listed",
        "registry.json: v1.2.3 is listed with a different sha256 than in its metadata.json",
        "registry.json: v1.4.0-rc1 is listed but has no folder",
    ]
    (registry.root / "registry.json").write_text("[")
    assert registry.resolve("production").version == "v1.2.3"
    assert "registry.json: is not JSON" in registry.check()[0]


def test_resolving_imports_no_numeric_or_onnx_library() -> None:
    """A process that only asks the registry needs neither numpy nor onnx nor onnxruntime, nor gRPC."""
    code = (
        "import sys; from pathlib import Path; from abfleet_models.registry import Registry;"
        "Registry(Path(sys.argv[1])).resolve('production').verify_file();"
        "print(sorted({'numpy', 'onnx', 'onnxruntime', 'grpc'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(COMMITTED)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_committed_registry_is_sound() -> None:
    """What ships verifies: every version by sha256, signature and golden answers, registry.json and aliases agree."""
    registry = Registry(COMMITTED)
    assert registry.aliases() == {"production": "v1.2.3", "staging": "v1.3.0-beta"}
    assert registry.check() == []
    for name in registry.versions():
        verify_golden(registry.resolve(name))
    for name in registry.archived_versions():
        verify_golden(registry.archived(name))
    notice = (COMMITTED / "NOTICE").read_text()
    for name in registry.versions():
        assert registry.resolve(name).manifest.training.citation.split(". https")[0][:40] in notice.replace("\n  ", " ")


def test_committed_metrics_reach_their_targets() -> None:
    """The three versions beat the popularity baseline by the margins that make an experiment worth running."""
    registry = Registry(COMMITTED)
    recall = {}
    for name in registry.versions():
        metrics = registry.resolve(name).metrics()
        assert metrics is not None
        recall[name] = metrics.get("recall@10")
        assert json.loads((COMMITTED / name / "metrics.json").read_text())["split"]["items"] == 2269
    assert recall["v1.2.3"] >= 0.072
    assert recall["v1.3.0-beta"] >= 0.083
    assert recall["v1.4.0-rc1"] >= 0.15
