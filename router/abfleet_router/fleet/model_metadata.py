"""What a worker says of its model, by ModelMetadata of the Open Inference Protocol."""

from abfleet_protos.inference_pb2 import ModelMetadataRequest, ModelMetadataResponse
from abfleet_transport.oip import MODEL_METADATA

from abfleet_router.fleet.replica import Replica


async def metadata_of(replica: Replica, timeout_seconds: float) -> ModelMetadataResponse:
    """Raises RpcFailed, TimeoutError where no answer comes in time, and DecodeError where the answer is none.

    A worker is asked without a name: what the router calls the model is not its business.
    """
    question = ModelMetadataRequest()
    if replica.oip is not None:
        question.name, question.version = replica.oip.model
    answered = await replica.link.ask(MODEL_METADATA, question.SerializeToString(), timeout_seconds)
    answer: ModelMetadataResponse = ModelMetadataResponse.FromString(answered)
    return answer
