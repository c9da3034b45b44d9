"""Command line of the benchmark: reads options, runs, prints one table for each model, writes JSON and SVG.

`python -m tests.benchmarks --quick` takes under two minutes, `--full` up to fifteen. Everything runs on the loopback
interface, and everything that was started is stopped at the end, also on Ctrl-C and SIGTERM.
"""

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType

from abfleet_process.build_info import build_info
from rich.console import Console

from tests.benchmarks import flat, infer, light, paths, picture, report, soak
from tests.benchmarks.fleets import NoFleet
from tests.benchmarks.measure import WrongAnswers
from tests.benchmarks.paths import PATHS, h2load
from tests.benchmarks.processes import NotStarted
from tests.benchmarks.run import ModelResult, Plan, Run
from tests.support import compiled

MODELS = ("identity", "real", "dense")
_ALL_PATHS = tuple(path.name for path in PATHS)
QUICK = Plan(
    paths=_ALL_PATHS,
    models=("identity",),
    in_flight=(120,),
    rounds=3,
    pass_cpu_s=1.0,
    latency_s=1.5,
    latency_rounds=1,
    singles=300,
    budget_s=95,
)
FULL = Plan(
    paths=_ALL_PATHS,
    models=MODELS,
    in_flight=(120, 400, 1_000),
    rounds=3,
    pass_cpu_s=1.5,
    latency_s=2.0,
    latency_rounds=2,
    singles=1_000,
    budget_s=840,
    connections=1_000,
)
_EXAMPLE = "example: python -m tests.benchmarks --quick --paths native,envoy --in-flight 120,400 --json bench.json"
_TABLE_WIDTH = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0 when all was measured, 1 when a path that is installed failed, 2 for a usage mistake."""
    options = _parser().parse_args(argv)
    console = Console(stderr=True)
    if options.compiled and build_info().form != "compiled":
        console.print("building the compiled wheel, unless the sources are those of the last one")
        try:
            python = compiled.environment(paths.ROOT / ".cache" / "compiled")
        except compiled.NotBuilt as error:
            console.print(str(error), markup=False)
            return 1
        words = sys.argv[1:] if argv is None else argv
        os.execve(python, [str(python), "-m", "tests.benchmarks", *words], dict(compiled.variables()))
    if h2load() is None:
        console.print("h2load is not installed (Debian: nghttp2-client); it makes the load")
        return 2
    signal.signal(signal.SIGTERM, _stop)
    busy = os.getloadavg()[0]
    if busy > (os.cpu_count() or 1) / 2:
        console.print(f"this machine is busy already (load {busy:.1f}): only ratios within a run mean something now")
    try:
        with tempfile.TemporaryDirectory(prefix="abfleet-bench-") as temporary:
            chosen = ((options.soak, _soak), (options.flat, _flat), (options.light, _light), (options.infer, _infer))
            instead = next((how for asked, how in chosen if asked), _run)
            return instead(options, Path(temporary), console)
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except (NoFleet, NotStarted, WrongAnswers, OSError) as error:
        console.print(str(error), markup=False)
        return 1


def _run(options: argparse.Namespace, directory: Path, console: Console) -> int:
    plan = _plan(options)
    run = Run(plan, directory, lambda text: console.print(text, style="dim", markup=False, highlight=False))
    results: list[ModelResult] = []
    for number, model in enumerate(plan.models):
        # The identity model has the most to measure; what it does not use is left for the others.
        left = len(plan.models) - number
        results.append(run.model(model, share=1.0 if left == 1 else 0.45 if number == 0 else 1 / left))
    out = Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH)
    for result in results:
        if result.paths:
            out.print(report.table(result, plan))
        for line in report.remarks(result):
            out.print(line, markup=False, highlight=False)
    for target in report.targets(results, plan):
        sign, word = ("≥" if target.at_least else "≤"), ("met " if target.met else "MISSED")
        out.print(f"{word:7}{target.text}: {target.reached:.2f} (target {sign} {target.bound:g})", highlight=False)
    if options.json:
        options.json.write_text(json.dumps(report.as_json(results, plan), indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(report.markdown(results, plan))
    if options.svg:
        options.svg.write_text(picture.draw(results, plan))
    return 1 if any(result.has_failures for result in results) else 0


def _flat(options: argparse.Namespace, directory: Path, console: Console) -> int:
    names = list(flat.QUESTIONS) if options.flat == ("all",) else list(options.flat)
    groups = [
        flat.ask(
            question,
            directory,
            transport=options.transport,
            router_flags=options.router_flags or (),
            rounds=options.rounds or 3,
            pass_cpu_s=1.5,
            say=lambda text: console.print(text, style="dim", markup=False, highlight=False),
        )
        for name in names
        for question in flat.QUESTIONS[name]
    ]
    Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH).print(flat.table(groups))
    if options.json:
        options.json.write_text(json.dumps({"flat": flat.as_json(groups)}, indent=1) + "\n")
    return 0


def _light(options: argparse.Namespace, directory: Path, console: Console) -> int:
    found = light.run(
        directory,
        paths=options.paths or ("native", "haproxy", "envoy"),
        rates=options.light,
        rounds=options.rounds or 3,
        seconds=4.0,
        pinned=options.pin,
        before=options.before,
        router_flags=options.router_flags or (),
        say=lambda text: console.print(text, style="dim", markup=False, highlight=False),
    )
    Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH).print(light.table(found))
    if options.json:
        options.json.write_text(json.dumps({"light": [asdict(one) for one in found]}, indent=1) + "\n")
    return 0


def _infer(options: argparse.Namespace, directory: Path, console: Console) -> int:
    found = infer.run(
        directory,
        rounds=options.rounds or 6,
        calls=options.infer,
        router_flags=options.router_flags or (),
        say=lambda text: console.print(text, style="dim", markup=False, highlight=False),
    )
    Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH).print(infer.table(found))
    if options.json:
        options.json.write_text(json.dumps({"infer": [asdict(one) for one in found]}, indent=1) + "\n")
    return 0


def _soak(options: argparse.Namespace, directory: Path, console: Console) -> int:
    found = soak.soak(
        options.soak,
        directory,
        transport=options.transport,
        router_flags=options.router_flags or (),
        say=lambda text: console.print(text, style="dim", markup=False, highlight=False),
    )
    print(
        f"{found.calls:,} calls, {found.cancelled:,} cancelled, {found.expired:,} expired: "
        f"{found.before_mb:.1f} MB after the warm-up, {found.after_mb:.1f} MB at the end, "
        f"{found.growth:+.1%} (target ≤ {soak.GROWTH_BOUND:.0%})"
    )
    if options.json:
        options.json.write_text(json.dumps({"soak": asdict(found), "growth": found.growth}, indent=1) + "\n")
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    plan = FULL if options.full else QUICK
    changes: dict[str, object] = {}
    for name in ("paths", "models", "in_flight", "rounds", "connections", "budget_s", "router_flags"):
        if (value := getattr(options, name)) is not None:
            changes[name] = value
    return replace(plan, **changes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, epilog=_EXAMPLE)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="identity workers only, under two minutes (the default)")
    size.add_argument("--full", action="store_true", help="all models and loads, up to fifteen minutes")
    parser.add_argument("--paths", type=_names(_ALL_PATHS), help=f"of {','.join(_ALL_PATHS)} [all]")
    parser.add_argument("--models", type=_names(MODELS), help=f"of {','.join(MODELS)} [quick: identity, full: all]")
    parser.add_argument("--in-flight", type=_numbers, help="calls in flight, the main one first [120 or 120,400,1000]")
    parser.add_argument("--rounds", type=_count, help="alternations of the paths [3]")
    parser.add_argument(
        "--connections", type=_count, help="open connections when memory is read [quick: 0, full: 1000]"
    )
    parser.add_argument(
        "--flat",
        type=_names((*flat.QUESTIONS, "all")),
        help=f"instead: our router's CPU by size of {','.join(flat.QUESTIONS)} or all",
    )
    parser.add_argument(
        "--light",
        type=_numbers,
        nargs="?",
        const=light.RATES,
        metavar="RATES",
        help="instead: CPU by process, wake-ups and latency at these calls a second [100,1000,5000]",
    )
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="measure the compiled wheel, which is built first; with --light --before . the plain form too",
    )
    parser.add_argument("--pin", action="store_true", help="with --light: the router has a core to itself")
    parser.add_argument(
        "--before", type=Path, metavar="DIR", help="with --light: a checkout whose router is measured beside ours"
    )
    parser.add_argument(
        "--infer",
        type=_count,
        nargs="?",
        const=6_000,
        metavar="CALLS",
        help="instead: CPU of ModelInfer beside Recommend, and in a crowd beside alone [6000 calls each way and round]",
    )
    parser.add_argument("--soak", type=_calls, metavar="CALLS", help="instead: our router's memory over so many calls")
    parser.add_argument(
        "--budget", dest="budget_s", type=_count, help="seconds after which nothing new is begun [quick: 95, full: 840]"
    )
    parser.add_argument(
        "--router-flags", type=lambda text: tuple(shlex.split(text)), help="more flags for our router, as one string"
    )
    parser.add_argument(
        "--transport", choices=("native", "grpcio"), default="native", help="for --flat and --soak [native]"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables and targets there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the picture of CPU a call there")
    return parser


def _names(allowed: Sequence[str]):
    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        if unknown := [name for name in chosen if name not in allowed]:
            raise argparse.ArgumentTypeError(f"{unknown[0][:64]!r} is not one of {', '.join(allowed)}")
        return chosen

    return parse


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text[:64]!r} is not a whole number from 1 to 100000")
    return int(text)


def _calls(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000_000:
        raise argparse.ArgumentTypeError(f"{text[:64]!r} is not a whole number from 1 to 100000000")
    return int(text)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
