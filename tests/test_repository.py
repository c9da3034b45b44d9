"""The repository as a whole: generated code, import rules, packaging, locks, links. Knows no behaviour."""

import filecmp
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 120


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Runs a program to its end and returns what it printed; a failure shows all of its output."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))} exited {done.returncode}:\n{done.stdout}"
    return done.stdout


def tracked(*patterns: str) -> list[Path]:
    """The files under version control, as paths from the root; skips where this is no checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, or git is not installed")
    names = run("git", "ls-files", "-z", *patterns).split("\0")
    return [Path(name) for name in names if name and (ROOT / name).is_file()]


DISTRIBUTIONS = {"abfleet": ROOT, "abfleet-client": ROOT / "protos"}
"""Name to the folder that holds its pyproject.toml."""


def project_of(distribution: str) -> dict[str, Any]:
    return tomllib.loads((DISTRIBUTIONS[distribution] / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return project_of("abfleet")


def test_generated_code_is_what_the_contracts_give(tmp_path: Path) -> None:
    """Regenerating from .proto files gives the committed files, byte for byte, and no other ones; what is generated
    from inference.proto and recommender.proto then gets a pool of descriptors of its own, each."""
    protos = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "protos").glob("*.proto"))
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    run(sys.executable, "-m", "grpc_tools.protoc", "-Iabfleet_protos=protos", *outputs, *protos)
    graph = "abfleet_models/graph/onnx_graph.proto"
    run(sys.executable, "-m", "grpc_tools.protoc", "-Imodels", *outputs[:2], f"models/{graph}")
    for name in ("inference_pb2.py", "recommender_pb2.py"):
        made = tmp_path / "abfleet_protos" / name
        made.write_text(made.read_text().replace("_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()"))
    for folder in ("protos/abfleet_protos", "models/abfleet_models/graph"):
        fresh, committed = tmp_path / folder.partition("/")[2], ROOT / folder
        names = sorted(path.name for path in fresh.iterdir())
        assert names == sorted(path.name for path in committed.glob("*_pb2*"))
        _, differ, missing = filecmp.cmpfiles(fresh, committed, names, shallow=False)
        assert (differ, missing) == ([], []), "run: ./run protos"


def test_import_rules_are_kept() -> None:
    """Every contract of [tool.importlinter] holds for the code as it is."""
    assert " 0 broken" in run(Path(sys.executable).with_name("lint-imports"), "--no-cache")


# --- packaging -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each distribution's wheel, built from its source distribution, as a user of the index would get it."""
    return {name: built(name, tmp_path_factory.mktemp("dist")) for name in DISTRIBUTIONS}


def built(distribution: str, folder: Path) -> Path:
    """The wheel of a distribution, from its source distribution, in a folder."""
    build = (sys.executable, "-m", "hatchling", "build", "--directory", folder, "--target")
    run(*build, "sdist", cwd=DISTRIBUTIONS[distribution])
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    run(*build, "wheel", cwd=sdist.with_name(sdist.name.removesuffix(".tar.gz")))
    (wheel,) = folder.glob("*.whl")
    return wheel


def packages_of(distribution: str) -> list[Path]:
    """The folders of its packages."""
    listed = project_of(distribution)["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    return [DISTRIBUTIONS[distribution] / name for name in listed]


@pytest.mark.parametrize(
    ("distribution", "licences"),
    [("abfleet", ["LICENSE", "models/NOTICE"]), ("abfleet-client", ["LICENSE"])],
)
def test_a_wheel_holds_every_module_and_nothing_else(
    wheels: dict[str, Path], distribution: str, licences: list[str]
) -> None:
    """Each package is in its wheel whole, typed, with the licence and the data's notice; tests are not."""
    packages = packages_of(distribution)
    expected = {
        path.relative_to(package.parent).as_posix()
        for package in packages
        for path in package.rglob("*")
        if path.is_file() and path.suffix in {".py", ".pyi", ".typed", ".json"}
    }
    with zipfile.ZipFile(wheels[distribution]) as archive:
        names = set(archive.namelist())
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        headers = Parser().parsestr(archive.read(metadata).decode())
    assert expected <= names
    assert {f"{package.name}/py.typed" for package in packages} <= names
    assert {name.split("/")[0] for name in names} == {package.name for package in packages} | {metadata.split("/")[0]}
    assert headers["License-Expression"] == "Apache-2.0"
    assert headers.get_all("License-File") == licences


def test_the_two_distributions_belong_together(pyproject: dict[str, Any]) -> None:
    """They share no package, so that each generated module is registered once; one version needs the
    other's own; the client needs grpcio and protobuf alone; the licence is one."""
    client = project_of("abfleet-client")["project"]
    assert {path.name for path in packages_of("abfleet")}.isdisjoint(
        path.name for path in packages_of("abfleet-client")
    )
    assert client["version"] == pyproject["project"]["version"]
    assert f"abfleet-client=={client['version']}" in pyproject["project"]["dependencies"]
    ours, theirs = (
        {Requirement(text).name for text in project["dependencies"]} for project in (pyproject["project"], client)
    )
    assert theirs == {"grpcio", "protobuf"} <= ours
    assert (ROOT / "protos" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.fixture(scope="module")
def clean_environment(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheels installed by plain pip, and this one's dependencies but not its checkout."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", *wheels.values())
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    # A line of a .pth file adds a folder without reading the .pth files in it, so the editable checkout stays out.
    here, there = run(sys.executable, "-c", purelib).strip(), run(python, "-c", purelib).strip()
    (Path(there) / "dependencies.pth").write_text(here + "\n")
    return folder


@pytest.mark.system
@pytest.mark.parametrize(
    "command",
    [
        ("abfleet", "--help"),
        ("python", "-m", "abfleet", "--help"),
        ("python", "-m", "abfleet_router", "--help"),
        ("python", "-m", "abfleet_worker", "--help"),
    ],
)
def test_installed_wheel_runs(clean_environment: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    """The console script and each process start from the installed wheel, far from the checkout."""
    program, *arguments = command
    out = run(clean_environment / "bin" / program, *arguments, cwd=tmp_path, PYTHONPATH="")
    assert "usage" in out.lower()


@pytest.mark.system
def test_installed_wheel_is_what_is_imported(
    clean_environment: Path, tmp_path: Path, pyproject: dict[str, Any]
) -> None:
    """In the clean environment every room's package comes from the wheel, and the version is the project's."""
    rooms = [package.name for name in DISTRIBUTIONS for package in packages_of(name)]
    code = (
        "import importlib, importlib.metadata as m, sys\n"
        "print(m.version('abfleet'))\n"
        "for name in sys.argv[1:]: print(importlib.import_module(name).__file__)"
    )
    version, *files = run(
        clean_environment / "bin" / "python", "-c", code, *rooms, cwd=tmp_path, PYTHONPATH=""
    ).splitlines()
    assert version == pyproject["project"]["version"]
    assert len(files) == len(rooms)
    assert all(Path(file).is_relative_to(clean_environment) for file in files)


# --- locks -----------------------------------------------------------------------------------------------------------

PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)", re.MULTILINE)


def pins(lock: str) -> dict[str, set[str]]:
    """Name to the versions pinned for it: more than one where they differ by Python version."""
    found: dict[str, set[str]] = {}
    for match in PIN.finditer((ROOT / lock).read_text()):
        found.setdefault(canonicalize_name(match["name"]), set()).add(match["version"])
    return found


def requirements(project: dict[str, Any], extra: str) -> Iterator[Requirement]:
    """The project's direct requirements with `extra`, its own extras followed."""
    listed = project["optional-dependencies"][extra]
    for text in [*project["dependencies"], *listed]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            for inner in requirement.extras:
                yield from requirements(project, inner)
        elif requirement.name not in DISTRIBUTIONS:
            yield requirement


@pytest.mark.parametrize(("lock", "extra"), [("requirements.lock", "fleet"), ("requirements-dev.lock", "dev")])
def test_locks_satisfy_the_project(pyproject: dict[str, Any], lock: str, extra: str) -> None:
    """Every direct requirement, and the build backend, is pinned at a version that pyproject.toml allows."""
    pinned = pins(lock)
    build = [Requirement(text) for text in pyproject["dependency-groups"]["build"]]
    for requirement in [*requirements(pyproject["project"], extra), *build]:
        versions = pinned.get(canonicalize_name(requirement.name))
        assert versions, f"{requirement} is not in {lock}; run: ./run lock"
        assert all(requirement.specifier.contains(version) for version in versions), f"{requirement}: {versions}"


def test_the_two_locks_agree() -> None:
    """What the fleet needs is pinned at the same versions in development."""
    fleet, dev = pins("requirements.lock"), pins("requirements-dev.lock")
    assert fleet.items() <= dev.items()
    assert fleet.keys() < dev.keys()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_locks_are_hashed(lock: str) -> None:
    """Each pin carries sha256 hashes, and no line says where to download from."""
    text = (ROOT / lock).read_text()
    blocks = re.split(r"^(?=\S+==)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == sum(len(versions) for versions in pins(lock).values())
    assert all("--hash=sha256:" in block for block in blocks)
    assert not re.search(r"^-", text, flags=re.MULTILINE)


def test_ci_covers_the_supported_versions(pyproject: dict[str, Any]) -> None:
    """The workflow runs `.ci/run` on each Python that the classifiers promise, the lowest being requires-python."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["check-and-test"]
    promised = [line.rsplit(" :: ", 1)[1] for line in pyproject["project"]["classifiers"] if "Python :: 3." in line]
    assert job["strategy"]["matrix"]["python"] == promised
    assert SpecifierSet(pyproject["project"]["requires-python"]) == SpecifierSet(f">={promised[0]}")
    assert job["steps"][-1] == {"run": ".ci/run"}


# --- what must not be in it, and what must ---------------------------------------------------------------------------

# One letter of each stands in brackets, so that this file does not hold what it looks for.
FORBIDDEN = re.compile(
    r"(?<![\w.}$-])/(?:[w]ork|[r]oot|[U]sers|[h]ome)/[\w.-]+"
    r"|pypi[.]org|pythonhosted[.]org|registry[.]npmjs"
    r"|--(?:extra-)?[i]ndex-url|--[f]ind-links|file:[/]//"
)


def test_no_machine_paths_and_no_registry_addresses() -> None:
    """No tracked text names somebody's folder, or where packages are downloaded from."""
    found = []
    for path in tracked():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a model or a picture
        found += [f"{path}:{text.count(chr(10), 0, hit.start()) + 1}: {hit[0]}" for hit in FORBIDDEN.finditer(text)]
    assert found == []


FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?:!?\[[^\]]*\]\(|<img [^>]*src=\")(?P<target>[^)\s\"]+)")


def anchors(markdown: str) -> set[str]:
    """The names that headings of a page can be linked by, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", markdown), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere() -> None:
    """Every relative link of every page names a file that is under version control, and a heading that is there."""
    files = set(tracked())
    folders = {parent for path in files for parent in path.parents}
    dead = []
    for page in tracked("*.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for link in LINK.finditer(FENCE.sub("", text)):
            target, _, anchor = link["target"].partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            path = Path(os.path.normpath(page.parent / target)) if target else page
            if path not in files and path not in folders:
                dead.append(f"{page}: {link['target']}")
            elif anchor and path.suffix == ".md" and anchor not in anchors((ROOT / path).read_text(encoding="utf-8")):
                dead.append(f"{page}: {link['target']} (no such heading)")
    assert dead == []


def test_every_page_is_in_the_index() -> None:
    """docs/README.md leads to each page of docs."""
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [page.name for page in tracked("docs/*.md") if page.parent == Path("docs") and page.name != "README.md"]
    assert [name for name in pages if f"({name})" not in index] == []


def test_decisions_are_numbered_and_listed() -> None:
    """docs/decisions has one page a number, without gaps, each with its four parts and an entry in the index."""
    pages = sorted(path for path in tracked("docs/decisions/*.md") if path.name != "README.md")
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    index = (ROOT / "docs" / "README.md").read_text()
    for page in pages:
        text = (ROOT / page).read_text()
        sections = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
        assert sections == ["Context", "Decision", "Consequences", "What would change it"], page
        assert text.startswith(f"# {int(page.name[:4])}. "), page
        assert f"(decisions/{page.name})" in index, page


@pytest.mark.parametrize(
    "words", [("", "work", "main"), ("", "home", "someone"), ("file:", "", "", "wheels"), ("", "root", ".cache")]
)
def test_a_machine_path_would_be_found(words: tuple[str, ...]) -> None:
    """The search above finds what it is for, alone and inside a sentence, and leaves addresses of pages alone."""
    assert FORBIDDEN.search("/".join(words))
    assert FORBIDDEN.search(f"see {'/'.join(words)}.")
    assert not FORBIDDEN.search("https://example.org" + "/".join(words[-2:]))
