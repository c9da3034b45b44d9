"""What a recommender must do beyond its signature, as its users would notice it. Asks the model; changes nothing."""

import numpy as np
from numpy.typing import NDArray

from abfleet_models.errors import IntegrityError
from abfleet_models.golden.answers import Golden
from abfleet_models.item_names import ITEMS_FILE
from abfleet_models.runs import OpenedModel

UNKNOWN_IDS = (-1, 2**62)
SEEN_ITEMS = 5
"""Items of the model's own answer that it is then asked with: it knows them whatever its catalogue is."""


def check_contract(model: OpenedModel) -> None:
    """Checks on the golden histories that an answer depends on its own row alone, not on padding nor on neighbours, and
    that it never has an item of the history.

    Raises IntegrityError with the history that shows it. Also asks for an empty history and for ids that no model has.
    """
    version, manifest = model.model_version.version, model.model_version.manifest
    golden = np.array(manifest.golden_history, dtype=np.int64)
    tolerance = manifest.golden.tolerance if isinstance(manifest.golden, Golden) else 0.0
    ids, scores = model.answer(golden)
    for what, history in (
        ("more padding", np.pad(golden, ((0, 0), (3, 0)))),
        ("the histories in another order", golden[::-1]),
    ):
        other_ids, other_scores = model.answer(history)
        if what != "more padding":
            other_ids, other_scores = other_ids[::-1], other_scores[::-1]
        _compare(version, what, (ids, scores), (other_ids, other_scores), tolerance)
    for row in range(len(golden)):
        alone = model.answer(golden[row : row + 1])
        together = (ids[row : row + 1], scores[row : row + 1])
        _compare(version, "being asked alone", together, alone, tolerance, first=row)
    cold = model.answer(np.zeros((1, 1), dtype=np.int64))
    refuse_no_ranking(version, *cold)
    refuse_no_ranking(version, *model.answer(np.array([UNKNOWN_IDS], dtype=np.int64)))
    _refuse_seen(version, golden, ids, scores)
    seen = np.array([_sent(cold[0][0], cold[1][0])[:SEEN_ITEMS]], dtype=np.int64)
    _refuse_seen(version, seen, *model.answer(seen))


def refuse_no_ranking(version: str, item_ids: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
    """Scores must be numbers and fall, ids must be there; nothing else can be sent to a user."""
    if np.isnan(scores).any() or (item_ids < 0).any():
        raise IntegrityError(f"{version}: an answer has a score that is not a number, or an item id below 0")
    if (np.diff(scores.astype(np.float64), axis=1) > 0).any():
        raise IntegrityError(f"{version}: the scores of an answer must be in descending order, the best item first")
    if not (item_ids > 0).any(axis=1).all():
        raise IntegrityError(f"{version}: an answer has no item; a history without known items must get popular items")


def refuse_nameless(model: OpenedModel, catalogue: bytes | None, names: int) -> None:
    """Every item that the model answers must have a name. `catalogue`: int64 ids of all of its items, where it says."""
    version, manifest = model.model_version.version, model.model_version.manifest
    if catalogue is None:
        ids, _ = model.answer(np.array(manifest.golden_history, dtype=np.int64))
    else:
        ids = np.frombuffer(catalogue, dtype="<i8").astype(np.int64)
    if ids.size and int(ids.max()) > names:
        raise IntegrityError(
            f"{version}: the model has item {int(ids.max())}, but {ITEMS_FILE} has only {names} lines; line n "
            "must name item n"
        )


def _refuse_seen(
    version: str, history: NDArray[np.int64], item_ids: NDArray[np.int64], scores: NDArray[np.float32]
) -> None:
    for asked, ids, values in zip(history, item_ids, scores, strict=True):
        again = {*asked[asked > 0].tolist()} & {*_sent(ids, values)}
        if again:
            raise IntegrityError(
                f"{version}: item {min(again)} of the history is in the answer; a recommender leaves seen items out"
            )


def _sent(item_ids: NDArray[np.int64], scores: NDArray[np.float32]) -> list[int]:
    """The items of one row that a user would get: those before an id 0 or a score -inf."""
    ended = np.flatnonzero(np.isneginf(scores) | (item_ids == 0))
    sent: list[int] = item_ids[: ended[0] if len(ended) else len(item_ids)].tolist()
    return sent


def _compare(
    version: str,
    what: str,
    expected: tuple[NDArray[np.int64], NDArray[np.float32]],
    found: tuple[NDArray[np.int64], NDArray[np.float32]],
    tolerance: float,
    *,
    first: int = 0,
) -> None:
    allowed = tolerance * np.maximum(np.abs(expected[1]).max(axis=1), np.finfo(np.float32).tiny)
    for row in range(len(expected[0])):
        near = np.abs(expected[1][row] - found[1][row]) <= allowed[row]
        if not (np.array_equal(expected[0][row], found[0][row]) and near.all()):
            raise IntegrityError(f"{version}: {what} changes the answer to golden history {first + row}")
