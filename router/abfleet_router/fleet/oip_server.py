"""A server of the Open Inference Protocol as a replica: what it is sent, whether it is ready, what its model takes."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from abfleet_experiments.config import OipModel
from abfleet_process.base128 import varint
from abfleet_protos.inference_pb2 import (
    ModelInferRequest,
    ModelReadyRequest,
    ModelReadyResponse,
)
from abfleet_transport.call import Code
from abfleet_transport.oip import MODEL_READY
from google.protobuf.message import DecodeError

from abfleet_router.fleet.health_watch import CHECK_SECONDS, CHECK_TIMEOUT_SECONDS, HealthLink, ReplicaHealth
from abfleet_router.fleet.http2_client_stream import RpcFailed
from abfleet_router.fleet.model_metadata import metadata_of

log = structlog.get_logger("abfleet.router.oip_server")

VERSION_TAG = b"\x12"
"""Of `model_version` in a ModelInferRequest: field number << 3 | 2 (length-delimited)."""
WHOLE_NUMBERS = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"})
NUMBERS = WHOLE_NUMBERS | {"FP16", "FP32", "FP64"}
TEXTS = "BYTES"
"""Of a recommender's tensors where items have names."""
HISTORY, ITEM_IDS, SCORES = "history", "item_ids", "scores"
"""Tensors of a recommender."""


class OipServer:
    """What is known of one server. Changed only on the event loop, by its ReadyWatch."""

    def __init__(self, model: OipModel) -> None:
        version = model.version.encode()
        self.model = model
        self.ending = (
            ModelInferRequest(model_name=model.model).SerializeToString() + VERSION_TAG + varint(len(version)) + version
        )
        """To append to a request: of a field that is there twice the last one counts, even where it is empty."""
        self.misfit = ""
        """Why its model cannot answer Recommend; "" where it can, or where the server does not say what it takes."""
        self.named = False
        """Whether items have names, as it says."""


class ReadyWatch:
    """Asks over one link whether the model is ready; `on_health` hears every answer, changed or not."""

    def __init__(self, link: HealthLink, server: OipServer, on_health: Callable[[ReplicaHealth], None]) -> None:
        self._link = link
        self._server = server
        self._on_health = on_health
        self._ready = False
        self._problem = ""

    async def follow(self) -> None:
        """Follows the server as long as the connection lasts; cancelled when it is gone."""
        self._ready = False
        while True:
            health = await self._asked()
            if health is not None:
                if health is ReplicaHealth.SERVING and not self._ready:
                    self._server.misfit = await self._misfit()  # before the first call: another model may be behind it
                self._ready = health is ReplicaHealth.SERVING
                self._on_health(health)
            await asyncio.sleep(CHECK_SECONDS)

    async def _asked(self) -> ReplicaHealth | None:
        """What it says; None where it says nothing, as when it stands behind long calls."""
        name, version = self._server.model
        question = ModelReadyRequest(name=name, version=version).SerializeToString()
        try:
            answer = await self._link.ask(MODEL_READY, question, CHECK_TIMEOUT_SECONDS)
            ready = ModelReadyResponse.FromString(answer).ready
        except TimeoutError:
            return None
        except DecodeError:
            return self._not_ready("its answer is no ModelReadyResponse")
        except RpcFailed as error:
            if error.unsent or error.code is Code.DEADLINE_EXCEEDED:
                return None
            health = self._not_ready(str(error))
            return ReplicaHealth.WRONG_VERSION if error.code is Code.NOT_FOUND else health
        if ready:
            self._problem = ""
            return ReplicaHealth.SERVING
        return self._not_ready("ModelReady says that it is not")

    def _not_ready(self, problem: str) -> ReplicaHealth:
        if problem != self._problem:
            self._problem = problem
            log.warning("the model is not ready", model=self._server.model.model, problem=problem)
        return ReplicaHealth.NOT_SERVING

    async def _misfit(self) -> str:
        model = self._server.model
        try:
            signature = await metadata_of(self._link, model, CHECK_TIMEOUT_SECONDS)
        except (RpcFailed, TimeoutError, DecodeError) as error:
            log.info(
                "the server does not say what its model takes", model=model.model, problem=str(error) or "no answer"
            )
            return ""
        self._server.named = any(one.name == HISTORY and one.datatype == TEXTS for one in signature.inputs)
        return misfit(signature)


def misfit(signature: Any) -> str:
    """Why a ModelMetadataResponse is not that of a recommender; "" where it is one, or where it names no tensors."""
    inputs = {one.name: one for one in signature.inputs}
    outputs = {one.name: one for one in signature.outputs}
    if inputs:
        history = inputs.pop(HISTORY, None)
        shape = [] if history is None else list(history.shape)
        if (
            history is None
            or history.datatype not in ("INT64", TEXTS)
            or not (len(shape) == 2 and shape[0] in (-1, 1))
            or inputs
        ):
            return f"it takes {_listed(signature.inputs)}, and Recommend has `{HISTORY}` INT64[1, n] alone"
    if outputs:
        items = {TEXTS} if any(one.datatype == TEXTS for one in signature.inputs) else WHOLE_NUMBERS
        for name, kinds in ((ITEM_IDS, items), (SCORES, NUMBERS)):
            if name not in outputs or outputs[name].datatype not in kinds:
                return (
                    f"it gives {_listed(signature.outputs)}, and Recommend needs `{ITEM_IDS}` INT64 and `{SCORES}` FP32"
                )
    return ""


def _listed(tensors: Iterable[Any]) -> str:
    return ", ".join(f"`{one.name}` {one.datatype}{list(one.shape)}" for one in list(tensors)[:10])
