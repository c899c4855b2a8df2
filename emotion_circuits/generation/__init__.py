"""Generation under patches (method.md, stages 3 and 7).

1. Prompts are batched by length, equal ones together, padded on the left, and decoded by Hugging Face's ``generate``
   with a key-value cache; patches act through hooks and know prompt tokens from generated ones. What equal prompts
   share, the tokens before the last, is computed once.
2. Sampling adds Gumbel noise to the scores and takes the maximum, which is exact sampling. The noise of a row
   depends on its seed and the step only, so a text does not depend on the batch that it was made in.
3. Repetition penalty, end tokens and the rest are always set here, never taken from the checkpoint's own
   ``generation_config``, which would make "greedy" mean something else for each model. What looks at earlier tokens
   looks at a row's own ones: padding is no repetition.
4. Whoever wants to watch is called with every piece of text as it is made, and with every reply as it is done.
"""

from emotion_circuits.generation.backend import Backend, Made, OnMade, OnReply
from emotion_circuits.generation.batched import generate
from emotion_circuits.generation.config import GenerationConfig
from emotion_circuits.generation.decode import end_tokens
from emotion_circuits.generation.streaming import OnText

__all__ = [
    "Backend", "GenerationConfig", "Made", "OnMade", "OnReply", "OnText", "end_tokens", "generate",
]  # fmt: skip
