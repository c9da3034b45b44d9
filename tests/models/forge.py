"""Versions that are wrong in one way: changes metadata or graph of a version, and keeps the rest consistent."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrites a JSON file after `change` has been at its content."""
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def edit_model(folder: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    """Rewrites model.onnx after `change` has been at it, and lets metadata.json vouch for the result."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    change(model)
    replace_model(folder, model.SerializeToString())


def replace_model(folder: Path, content: bytes) -> None:
    """Writes model.onnx, and lets metadata.json vouch for it."""
    (folder / "model.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit_json(folder / "metadata.json", lambda data: data.update(sha256=digest, size_bytes=len(content)))


def move_outside(model: onnx.ModelProto, location: str) -> bytes:
    """Moves the bytes of the table of ids to an external `location`, and returns them."""
    tensor = next(item for item in model.graph.initializer if item.name == "number_of_id")
    content = bytes(tensor.raw_data)
    assert content, "the initializer has no raw data to move"
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return content
