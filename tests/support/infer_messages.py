"""Messages of the Open Inference Protocol at random, as bytes: also what no encoder of ours would write."""

import random

from abfleet_protos.inference_pb2 import ModelInferRequest, ModelInferResponse

TEXTS = ("", "a", "имя", "x" * 70, '"', "\x00")
UNKNOWN = (b"\xc2\x0c\x03abc", b"\xc0\x3e\x07")
"""Fields 200 and 1,000, which nobody knows."""


def drawn(generator: random.Random, number: int) -> bytes:
    """A request of many shapes: raw and typed, with parameters and without, and with fields that nobody knows."""
    made = ModelInferRequest(model_name="recommender", id=f"r{number}")
    for place in range(generator.randrange(4)):
        tensor = made.inputs.add(name=generator.choice(TEXTS), datatype="FP32", shape=[generator.randrange(-1, 9)])
        if generator.random() < 0.5:
            tensor.contents.fp32_contents.extend(generator.random() for _ in range(generator.randrange(9)))
        else:
            made.raw_input_contents.append(generator.randbytes(generator.choice((0, 1, 200, 100_000))))
        tensor.parameters[generator.choice(TEXTS)].bool_param = place > 1
    for _ in range(generator.randrange(4)):
        made.parameters[generator.choice(TEXTS)].string_param = generator.choice(TEXTS)
    for _ in range(generator.randrange(3)):
        made.outputs.add(name=generator.choice(TEXTS))
    parts = [made.SerializeToString()]
    if generator.random() < 0.3:  # an id, too, that counts because it comes last
        parts += [*UNKNOWN, ModelInferRequest(id=f"r{number}").SerializeToString()]
        generator.shuffle(parts)
    return b"".join(parts)


def drawn_answer(generator: random.Random) -> bytes:
    """An answer, with names, id and parameters of its own."""
    made = ModelInferResponse(model_name=generator.choice(TEXTS), model_version="3", id=generator.choice(TEXTS))
    for _ in range(generator.randrange(4)):
        tensor = made.outputs.add(name=generator.choice(TEXTS), datatype="FP32", shape=[generator.randrange(-1, 9)])
        if generator.random() < 0.5:
            tensor.contents.fp32_contents.extend(generator.random() for _ in range(generator.randrange(9)))
        else:
            made.raw_output_contents.append(generator.randbytes(generator.choice((0, 1, 200, 20_000))))
    for name in generator.sample(("experiment", "group", "", "kept"), generator.randrange(5)):
        made.parameters[name].string_param = generator.choice(TEXTS)
    parts = [made.SerializeToString(), *(UNKNOWN if generator.random() < 0.3 else ())]
    generator.shuffle(parts)
    return b"".join(parts)
