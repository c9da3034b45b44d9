"""Targets on disk: experiments and fleet files, decision logs, registries, models, tokens, tables to import."""

import gzip
import json
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import zstandard
from abfleet_analysis.analyse import analyse
from abfleet_analysis.reading.open_log import LogError
from abfleet_experiments.config import Config
from abfleet_experiments.file.errors import ConfigErrors
from abfleet_experiments.file.load import load, load_text
from abfleet_log.files import WriterIdentity
from abfleet_log.tools.check import Checker
from abfleet_log.tools.erase import LoggedUser, user_history
from abfleet_log.tools.import_outcomes import ColumnMap, import_outcomes
from abfleet_log.tools.read_lines import LogsError, all_lines
from abfleet_log.tools.show import last_lines, one_line
from abfleet_models.errors import RegistryError
from abfleet_models.graph.reading import NotOnnxError, read_graph
from abfleet_models.registry import Registry
from abfleet_models.train.dataset import TrainingDataError, read_split
from abfleet_process.security import tokens
from abfleet_worker.errors import ModelLoadError
from abfleet_worker.model import load as load_model

from tests.analysis.log_lines import LogLines
from tests.experiments import test_fuzz as experiments_file
from tests.fuzz.mutation import mutated, mutated_text
from tests.fuzz.target import Target, Trial
from tests.models.forge import replace_model
from tests.support.tiny_model import model_bytes, tiny_registry

LINES = 300
ANALYSED_SHARE = 0.1
FLEET = 'version: 1\nmodels:\n  v1: {target: "dns:///h:1"}  # here\n  v2: {target: ["h:2", "[::1]:3", "unix:/x"]}\n'
TOKENS = f"# who\nann {'a' * 64} feedback,admin\nbob {'b' * 64}\n"
RATINGS = "userId,movieId,rating,timestamp\n" + "".join(f"{n % 7},{n % 5},4.5,{n + 900_000_000}\n" for n in range(60))
OUTCOMES_CSV = "outcome_id,request_id,user_id,type,item_id,value,currency,time\n" + "".join(
    f"o-{n},r-{n},u-{n},purchase,{n},{n}.5,EUR,2026-11-01T00:00:{n:02}Z\n" for n in range(20)
)
OUTCOMES_JSON = "".join(
    json.dumps({"outcome_id": f"o-{n}", "user_id": "u", "type": "click", "item_id": n, "time": "2026-11-01T00:00:00Z"})
    + "\n"
    for n in range(20)
)
INDEX = {
    "schema": 1,
    "models": [{"version": "v1.2.3", "algorithm": "sum", "sha256": "0" * 64, "metrics": {"recall@10": 0.1}}],
    "log": [],
}
OTHERS: tuple[dict[str, object], ...] = (
    {
        "event": "outcome",
        "received_ts": "2026-11-01T00:00:01.000000Z",
        "outcome_id": "o-1",
        "request_id": "r0",
        "user_id": "user-1",
        "type": "purchase",
        "item_id": 3,
        "value": 1.5,
        "currency": "EUR",
        "synthetic": False,
    },
    {
        "event": "allocation",
        "config_revision": "0" * 12,
        "experiment": "one",
        "salt": "s",
        "traffic": 100,
        "allocation": "000000000001",
        "weights": {"control": 50, "b": 50},
        "moved": 0.1,
    },
    {"event": "reload", "old_revision": None, "new_revision": "0" * 12, "active": True, "errors": []},
)
OTHER_LINES = tuple(
    json.dumps({"schema": 1, "ts": "2026-11-01T00:00:00.000000Z", "router": "r"} | line) for line in OTHERS
)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that goes."""
    with tempfile.TemporaryDirectory(prefix="abfleet-fuzz-") as name:
        yield Path(name)


def on_text(text: str, read: Callable[[str], bool]) -> Callable[[], AbstractAsyncContextManager[Trial]]:
    """A target whose trials mutate a text; `read` says whether it was taken."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Trial]:
        async def trial(source: random.Random) -> int:
            return int(read(mutated_text(text, source)))

        yield trial

    return opened


def read_experiments(text: str) -> bool:
    """An experiments file: a whole configuration that works, or mistakes with places in the file."""
    try:
        config = load_text(text)
    except ConfigErrors as error:
        experiments_file._check(error, text)
        return False
    experiments_file._use(config, text)
    return True


def read_fleet(text: str) -> bool:
    """A fleet file over a sound experiments file."""
    try:
        load_text(experiments_file.SEED_TEXT, fleet_text=text)
    except ConfigErrors as error:
        experiments_file._check(error, text)
        return False
    return True


@asynccontextmanager
async def config_bytes() -> AsyncIterator[Trial]:
    """The same files as bytes on disk, which need not be text."""
    with scratch() as folder:
        path, fleet = folder / "experiments.yaml", folder / "fleet.yaml"

        async def trial(source: random.Random) -> int:
            path.write_bytes(mutated(experiments_file.SEED_TEXT.encode(), source))
            fleet.write_bytes(mutated(FLEET.encode(), source))
            try:
                load(path, fleet)
            except ConfigErrors as error:
                _says(error, without="\x00")
                return 0
            return 1

        yield trial


def _says(error: Exception, *, without: str) -> None:
    """A message that a person can read, and may see."""
    assert str(error)
    assert without not in str(error), str(error)


def read_tokens(text: str) -> bool:
    """A file of hashed tokens: tokens, or mistakes that show nothing that might be one."""
    try:
        found = tokens.parse(text)
    except ValueError as error:
        _says(error, without="a" * 40)
        return False
    return all(len(one.sha256) == 64 for one in found)


@asynccontextmanager
async def decision_logs() -> AsyncIterator[Trial]:
    """A log of mutated lines, plain, compressed, mutated as a whole or torn: analysed, checked, shown, searched."""
    config = load_text(experiments_file.SEED_TEXT)
    made = LogLines()
    made.exposure("user-1", "treatment", reason="allocated", trace_id="0" * 32)
    made.exposure(None, None, status="UNAVAILABLE", served_version=None, fallback="timeout", items=[])
    seeds = [json.dumps(line) for line in made.lines] + list(OTHER_LINES)
    with scratch() as top:

        async def trial(source: random.Random) -> int:
            folder = top / "logs"
            folder.mkdir()
            try:
                _write_log(folder, seeds, source)
                return _read_log(folder, config, source)
            finally:
                shutil.rmtree(folder)

        yield trial


def _write_log(folder: Path, seeds: Sequence[str], source: random.Random) -> None:
    lines = []
    for _ in range(LINES):
        seed = source.choice(seeds)
        lines.append(seed if source.random() < 0.3 else mutated_text(seed, source))
    data = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    if source.random() < 0.3:
        data = mutated(data, source)
    match source.randrange(4):
        case 0:
            suffix, data = ".jsonl.zst", zstandard.compress(data)
        case 1:
            suffix, data = ".jsonl.gz", gzip.compress(data)
        case _:
            suffix = ".jsonl"
    if source.random() < 0.3:
        data = mutated(data, source) if source.random() < 0.5 else data[: source.randrange(len(data))]
    (folder / f"decisions-h-20261101T000000Z-1{suffix}").write_bytes(data)


def _read_log(folder: Path, config: Config, source: random.Random) -> int:
    sound = 0
    with suppress(LogsError):
        check = Checker(gap_seconds=3600, config=config).take(all_lines([folder]))
        sound = check.lines
    with suppress(LogsError):
        for line in last_lines([folder], 50, lambda line: True):
            assert "\n" not in one_line(line)
    with suppress(LogsError):
        user_history([folder], LoggedUser("user-1"))
    if source.random() < ANALYSED_SHARE:
        with suppress(LogError):
            analyse([folder], config)
    return sound


@asynccontextmanager
async def registries() -> AsyncIterator[Trial]:
    """registry.json, metadata.json and metrics.json: read, or refused in one line."""
    with scratch() as folder:
        root = tiny_registry(folder / "models")
        names = (root / "registry.json", root / "v1.2.3" / "metadata.json", root / "v1.2.3" / "metrics.json")
        names[0].write_text(json.dumps(INDEX))
        names[2].write_text(json.dumps({"schema": 1, "version": "v1.2.3", "split": {}, "metrics": {"recall@10": 0.1}}))
        sound = {path: path.read_bytes() for path in names}

        async def trial(source: random.Random) -> int:
            path = source.choice(names)
            path.write_bytes(mutated(sound[path], source))
            try:
                registry = Registry(root)
                registry.check()
                registry.index()
                found = registry.resolve("production")
                found.metrics()
                found.read_verified()
            except RegistryError as error:
                _says(error, without="\n")
                return 0
            finally:
                path.write_bytes(sound[path])
            return 1

        yield trial


@asynccontextmanager
async def graphs() -> AsyncIterator[Trial]:
    """The bytes of a model, by our own reader, which looks for what must not be in it."""
    content = model_bytes()

    async def trial(source: random.Random) -> int:
        try:
            read_graph(mutated(content, source))
        except NotOnnxError:
            return 0
        return 1

    yield trial


@asynccontextmanager
async def models() -> AsyncIterator[Trial]:
    """A worker loads a mutated model whose metadata vouches for it: it is refused, or it answers as it should."""
    content = model_bytes()
    with scratch() as folder:
        root = tiny_registry(folder / "models")

        async def trial(source: random.Random) -> int:
            replace_model(root / "v1.2.3", mutated(content, source))
            try:
                load_model(root, "production")
            except ModelLoadError as error:
                _says(error, without="\n")
                return 0
            return 1

        yield trial


@asynccontextmanager
async def tables() -> AsyncIterator[Trial]:
    """Outcomes from elsewhere, as CSV or JSON lines: imported, or refused with the row."""
    with scratch() as folder:

        async def trial(source: random.Random) -> int:
            suffix, text = source.choice(((".csv", OUTCOMES_CSV), (".jsonl", OUTCOMES_JSON)))
            path = folder / f"table{suffix}"
            data = mutated_text(text, source).encode("utf-8", "surrogatepass")
            path.write_bytes(mutated(data, source) if source.random() < 0.3 else data)
            mapping = ColumnMap(time_unit=source.choice((None, None, "s", "us")))
            types = frozenset({"click", "purchase"})
            try:
                found = import_outcomes(
                    path, folder, mapping, types, WriterIdentity("host", 1), dry_run=True, skip_rejected=True
                )
            except LogsError:
                return 0
            assert found.accepted + found.repeated + found.rejected == found.rows
            return int(found.accepted > 0)

        yield trial


@asynccontextmanager
async def ratings() -> AsyncIterator[Trial]:
    """Training data: read, or refused with the line."""
    with scratch() as folder:

        async def trial(source: random.Random) -> int:
            data = mutated_text(RATINGS, source).encode("utf-8", "surrogatepass")
            (folder / "ratings.csv").write_bytes(mutated(data, source) if source.random() < 0.3 else data)
            try:
                split = read_split(folder, min_ratings=1)
            except TrainingDataError:
                return 0
            return int(split.items > 0)

        yield trial


TARGETS = (
    Target(name="experiments file", inputs=8_000, open=on_text(experiments_file.SEED_TEXT, read_experiments)),
    Target(name="fleet file", inputs=8_000, open=on_text(FLEET, read_fleet)),
    Target(name="both as bytes", inputs=5_000, open=config_bytes),
    Target(name="token file", inputs=39_600, open=on_text(TOKENS, read_tokens)),
    Target(name="decision log", inputs=15_000, each=LINES, open=decision_logs, growth_mb=150),
    Target(name="registry", inputs=4_000, open=registries),
    Target(name="model graph", inputs=10_000, open=graphs),
    Target(name="model in a worker", inputs=2_000, open=models, growth_mb=150),
    Target(name="outcomes to import", inputs=10_000, open=tables),
    Target(name="training data", inputs=2_000, open=ratings),
)
