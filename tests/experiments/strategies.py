"""Random shares, ramps and files."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any

from hypothesis import strategies as st

START = datetime(2026, 11, 1, tzinfo=UTC)


@st.composite
def shares(draw: st.DrawFn, groups: int) -> tuple[int, ...]:
    """Basis points of so many groups, zeros included, that sum to 10,000. Drawn by one seed, for speed."""
    random = Random(draw(st.integers(0, 2**32)))
    step = random.choice((1, 1, 50, 500))
    edges = [0, *sorted(random.randint(0, 10_000 // step) * step for _ in range(groups - 1)), 10_000]
    parts = [after - before for before, after in pairwise(edges)]
    random.shuffle(parts)
    return tuple(parts)


@st.composite
def ramps(draw: st.DrawFn, most_groups: int = 30) -> tuple[int, list[tuple[int, ...]]]:
    """The index of control, and one to six rows of shares."""
    groups = draw(st.integers(1, most_groups))
    rows = draw(st.lists(shares(groups), min_size=1, max_size=6))
    return draw(st.integers(0, groups - 1)), rows


def percent(basis_points: int) -> str:
    """As a file writes it."""
    return f"{basis_points // 100}.{basis_points % 100:02d}"


WORDS = ("DE", "FR", "NO", "on")
USERS = st.one_of(
    st.integers(0, 10**6).map(str),
    st.uuids().map(str),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=60),
)


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """The plain values of a file without ramps: up to five experiments in up to three layers, with everything else.

    One that interleaves two versions has one group, which no one version serves.
    """
    left = {"default": 10_000, "ranking": 10_000, "search": 10_000}
    experiments = []
    for index in range(draw(st.integers(0, 5))):
        layer = draw(st.sampled_from(sorted(left)))
        traffic = draw(st.one_of(st.just(left[layer]), st.integers(0, left[layer])))
        left[layer] -= traffic
        interleave = draw(st.sampled_from((None, None, None, ("v1", "v2"), ("v3", "v1"))))
        names = ("control", "one", "two")[: draw(st.integers(1, 3))] if interleave is None else ("interleaved",)
        weights = draw(shares(len(names)))
        models = [draw(st.sampled_from(("v1", "v2", "v3"))) if interleave is None else "" for _ in names]
        experiments.append(
            {
                "name": f"e{index}",
                "salt": draw(st.sampled_from((f"e{index}", f"salt {index} ж"))),
                "enabled": draw(st.sampled_from((True, True, True, False))),
                "layer": layer,
                "traffic_bp": traffic,
                "audience": draw(
                    st.one_of(
                        st.just({}),
                        st.dictionaries(
                            st.sampled_from(("country", "language")),
                            st.lists(st.sampled_from(WORDS), min_size=1, max_size=3, unique=True),
                            min_size=1,
                        ),
                    )
                ),
                "overrides": draw(st.dictionaries(st.integers(0, 9).map(str), st.sampled_from(names), max_size=3)),
                "groups": list(zip(names, models, weights, strict=True)),
                "interleave": interleave,
            }
        )
    return {
        "default": "v1",
        "holdout_bp": draw(st.sampled_from((0, 0, 1, 500, 5000, 10_000))),
        "experiments": experiments,
    }


def text_of(file: dict[str, Any]) -> str:
    """The same as the text of an experiments file."""
    lines = [
        "version: 1",
        f"default: {file['default']}",
        "models:",
        *(f"  {version}: {{target: 'localhost:{port}'}}" for port, version in enumerate(("v1", "v2", "v3"), 50061)),
        f"holdout: {{percent: {percent(file['holdout_bp'])}}}",
        "experiments:" if file["experiments"] else "experiments: []",
    ]
    for e in file["experiments"]:
        lines += [
            f"  - name: {e['name']}",
            f'    salt: "{e["salt"]}"',
            f"    enabled: {str(e['enabled']).lower()}",
            f"    layer: {e['layer']}",
            f"    traffic: {percent(e['traffic_bp'])}",
            "    overrides: {" + ", ".join(f'"{user}": {group}' for user, group in e["overrides"].items()) + "}",
        ]
        if e["interleave"]:
            lines.append(f"    interleave: [{', '.join(e['interleave'])}]")
        else:
            lines.append("    groups:")
            lines += [f"      - {{name: {n}, model: {m}, weight: {percent(w)}}}" for n, m, w in e["groups"]]
        if e["audience"]:
            lines.append("    audience:")
            lines += [f"      {key}: [{', '.join(words)}]" for key, words in e["audience"].items()]
    return "\n".join(lines) + "\n"


def days(number: float) -> datetime:
    """So many days after the first of November."""
    return START + timedelta(days=number)
