"""ONNX Runtime, imported with its telemetry off.

Since 1.32 the published builds upload usage data unless this variable is set before the library is first imported; a
server must not call anybody that its operator did not choose. Set ORT_DISABLE_TELEMETRY=0 to allow it.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

__all__ = ["onnxruntime"]
