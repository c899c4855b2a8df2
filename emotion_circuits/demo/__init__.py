"""The embedded demo model: a tiny chat model whose emotion can be found and steered, and how it was made.

`MODEL_FOLDER` is a Hugging Face checkpoint folder that loads offline. The rest of the package regenerates it:
`wordings` (tables), `scenes` and `corpus` (the training text), `tokenizer`, `muon` and `train`
(``python -m emotion_circuits.demo.train``).
"""

from pathlib import Path

MODEL_FOLDER: Path = Path(__file__).parent / "model"
"""Folder of the embedded model and its tokenizer."""

__all__ = ["MODEL_FOLDER"]
