"""Models of a new user, each from its training script to a conclusion, by docs/guides alone.

`./run prove own-models [--only WORD]`. Each model is trained and exported as its guide says, added, served by `abfleet
up`, and called by 2,000 users: by Triton's client, or recommenders by Recommend. Outcomes are made up and imported, and
`abfleet analyze` concludes. Prints the seconds that the commands took: they are to be under ten minutes for each.
"""

import argparse
import json
import re
import tempfile
from pathlib import Path

from tests.support.guides import MODELS, USERS, Model, Newcomer

MOST_SECONDS = 600.0


def prove(model: Model, folder: Path) -> tuple[float, int, str]:
    """Seconds of commands, calls in the log, and the verdict."""
    newcomer = Newcomer(model, folder)
    newcomer.make()
    newcomer.add()
    newcomer.configure()
    newcomer.serve_and_call()
    _, today, later = newcomer.conclude()
    assert "first: KEEP RUNNING" in today, today
    lines = [json.loads(line) for path in (folder / "logs").glob("*.jsonl") for line in path.read_text().splitlines()]
    calls = [line for line in lines if line["event"] == "exposure" and line["status"] == "OK"]
    wanted = "recommend" if model.is_recommender else "infer"
    assert {line.get("method") or "recommend" for line in calls} == {wanted}
    verdict = re.match(r"first: ([A-Z ]+)[, ]", later)
    if verdict is None or verdict[1] != "SHIP":
        print(later)
    return newcomer.seconds, len(calls), verdict[1] if verdict else later


def main() -> int:
    """Each model in its turn."""
    parser = argparse.ArgumentParser(prog="./run prove own-models", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="models whose names have this word")
    got = parser.parse_args()
    failed = False
    for model in MODELS:
        if got.only not in model.name:
            continue
        if model.missing:
            print(f"{model.name}: left out: {model.missing}", flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            seconds, calls, verdict = prove(model, Path(folder))
        holds = calls == USERS and verdict == "SHIP" and seconds < MOST_SECONDS
        failed = failed or not holds
        print(
            f"{'held' if holds else 'FAILED':6} {model.name}: {seconds:.0f} s of commands, {calls} calls, {verdict}",
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
