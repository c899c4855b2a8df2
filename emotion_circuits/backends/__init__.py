"""Backends: other engines that make replies, for loads beyond one machine (docs/backends.md).

`OpenAIBackend`  any server of OpenAI's protocol; no patches, but the server's model may be a baked one.
`VLLMBackend`    vLLM in this process, over several GPUs; patches that its transforms can express.
"""

from emotion_circuits.backends.engine import VLLMBackend
from emotion_circuits.backends.server import OpenAIBackend
from emotion_circuits.backends.specs import compile_patches
from emotion_circuits.generation import Backend

__all__ = ["Backend", "OpenAIBackend", "VLLMBackend", "compile_patches"]
