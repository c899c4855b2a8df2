"""The wrapper: every Hugging Face and TransformerLens name ends here."""

from emotion_circuits.model.hooked_model import HookedModel
from emotion_circuits.model.tokens import TokenBatch

__all__ = ["HookedModel", "TokenBatch"]
