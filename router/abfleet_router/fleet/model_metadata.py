"""What a worker says of its model, by ModelMetadata of the Open Inference Protocol."""

from abfleet_experiments.config import OipModel
from abfleet_protos.inference_pb2 import ModelMetadataRequest, ModelMetadataResponse
from abfleet_transport.oip import MODEL_METADATA

from abfleet_router.fleet.health_watch import HealthLink


async def metadata_of(link: HealthLink, model: OipModel | None, timeout_seconds: float) -> ModelMetadataResponse:
    """Raises RpcFailed, TimeoutError where no answer comes in time, and DecodeError where the answer is none.

    `model`: of a server of the protocol. A worker, which has None, is asked without a name: what the router calls the
    model is not its business.
    """
    question = ModelMetadataRequest()
    if model is not None:
        question.name, question.version = model
    answered = await link.ask(MODEL_METADATA, question.SerializeToString(), timeout_seconds)
    answer: ModelMetadataResponse = ModelMetadataResponse.FromString(answered)
    return answer
