"""What a model file must answer, computed in plain numpy from its weights. Shares no code with training or export."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from abfleet_models.runtime import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """A session on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def ask(session: onnxruntime.InferenceSession, *histories: list[int], length: int = 0) -> tuple[Any, Any]:
    """item_ids, scores [batch, k] for histories padded on the left to the longest, or to `length`."""
    width = max([length, *(len(history) for history in histories)])
    rows = [[0] * (width - len(history)) + list(history) for history in histories]
    item_ids, scores = session.run(["item_ids", "scores"], {"history": np.array(rows, dtype=np.int64)})
    return item_ids, scores


class Reference:
    """One model file's weights, and the answer that the documented formula gives with them."""

    def __init__(self, path: Path, *, window: int, k: int) -> None:
        model = onnx.load(path)
        values = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
        self.item_ids: NDArray[np.int64] = values["item_ids_by_number"]
        self.window, self.k = window, k
        self.popular = values["popular"][0, :-1]
        items = len(self.item_ids)
        self.tables = []
        for index in range(sum(name.endswith("_scale") for name in values)):
            rows, weights = values[f"table{index}_rows"], values[f"table{index}_values"]
            dense = np.zeros((items, items), dtype=np.int64)
            for column in range(items):
                dense[rows[:, column], column] = weights[:, column]
            scale = values[f"table{index}_scale"][:items]
            self.tables.append((dense, values[f"table{index}_places"].astype(np.int64), scale))

    def answer(self, history: list[int]) -> tuple[list[int], NDArray[np.float32]]:
        """The k best (id, score): ties go to the more popular item, and id 0 with score 0 where nothing is left."""
        number = {int(item): place for place, item in enumerate(self.item_ids)}
        newest = [number[item] for item in reversed(history[-self.window :]) if item in number]
        seen = {number[item] for item in history if item in number}
        scores = self.popular
        if newest and self.tables:
            scores = np.zeros(len(self.item_ids), dtype=np.float32)
            for dense, places, scale in self.tables:
                total = sum(places[place] * dense[item] for place, item in enumerate(newest))
                scores = scores + np.asarray(total, dtype=np.float32) * scale
        order = sorted((n for n in range(len(self.item_ids)) if n not in seen), key=lambda n: (-float(scores[n]), n))
        best = order[: self.k]
        missing = self.k - len(best)
        ids = [int(self.item_ids[n]) for n in best] + [0] * missing
        return ids, np.array([*(scores[n] for n in best), *([0.0] * missing)], dtype=np.float32)
