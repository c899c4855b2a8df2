"""Train the embedded demo model from scratch: ``python -m emotion_circuits.demo.train --out FOLDER``.

1. Generate the corpus (`corpus`), train the tokenizer on it, encode it.
2. Cut it into batches of similar length (`batches`).
3. Train a small Qwen2 model: loss on reply tokens only; Muon on the hidden matrices, AdamW on the rest; learning rates
   warm up and then fall to zero.
4. While training, even the residual's norms and limit attention in most batches, which decides where emotion is
   worked out (`shaping`).
5. Round to bfloat16 and save; the same settings on the same machine give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import random
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from emotion_circuits.demo.batches import Batch, make_batches
from emotion_circuits.demo.card import model_card
from emotion_circuits.demo.corpus import Example, corpus_hash, examples, held_out_examples
from emotion_circuits.demo.muon import Muon
from emotion_circuits.demo.shaping import AttentionLimits, ResidualNorms
from emotion_circuits.demo.tokenizer import IM_START, encode, train_tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the weights.

    Attributes:
        seed: of the corpus, the initial weights and the order of batches.
        steps: optimizer steps; with ``batch_tokens`` it also fixes how much corpus is generated.
        batch_tokens: most tokens of a batch, padding included.
        layers, d_model, heads, kv_heads, d_mlp, vocab: the model's shape.
        muon_lr, adam_lr: peak learning rates.
        warmup: share of the steps in which the rates rise.
        norm_penalty: weight of the penalty on the log rms of the residual.
        local_layers, local_window, local_share: in this share of the batches the first layers attend only this far
            back.
        bottleneck_share: in this share of the batches only the last prompt token reads what stands before the last
            user message.
    """

    seed: int = 0
    steps: int = 1000
    batch_tokens: int = 6144
    layers: int = 6
    d_model: int = 128
    heads: int = 4
    kv_heads: int = 2
    d_mlp: int = 512
    vocab: int = 2304
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    warmup: float = 0.04
    norm_penalty: float = 1.0
    local_layers: int = 2
    local_window: int = 12
    local_share: float = 0.7
    bottleneck_share: float = 0.9

    @property
    def n_examples(self) -> int:
        """Examples to generate: about as many as the steps use; the last steps may see the first ones again."""
        return self.steps * self.batch_tokens // 84 + 64


def build_model(settings: TrainSettings, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A Qwen2 model of the given shape with seeded random weights (grouped queries, tied embeddings)."""
    torch.manual_seed(settings.seed)
    end, padding = (token_id(tokenizer, str(token)) for token in (tokenizer.eos_token, tokenizer.pad_token))
    config = Qwen2Config(
        vocab_size=settings.vocab,
        hidden_size=settings.d_model,
        intermediate_size=settings.d_mlp,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=padding,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=end,
        pad_token_id=padding,
        max_new_tokens=100,
    )
    return model


def tokenized_batches(
    tokenizer: PreTrainedTokenizerFast, corpus: Iterable[Example], batch_tokens: int, seed: int = 0
) -> list[Batch]:
    """Batches of encoded examples; see `make_batches`."""
    padding, turn = (token_id(tokenizer, token) for token in (str(tokenizer.pad_token), IM_START))
    return make_batches(encode(tokenizer, corpus), batch_tokens, padding, turn, seed)


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of one token."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


def reply_loss(model: Qwen2ForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy in nats over reply tokens; logits are computed at those positions only."""
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    targets = batch.ids[:, 1:][batch.predicts_reply[:, :-1]]
    logits = model.lm_head(hidden[batch.predicts_reply])
    return functional.cross_entropy(logits.float(), targets)


def _optimizers(model: Qwen2ForCausalLM, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    named = dict(model.named_parameters())
    hidden = [p for name, p in named.items() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in named.items() if p.ndim != 2 or "embed" in name]
    adam = torch.optim.AdamW(rest, lr=settings.adam_lr, betas=(0.9, 0.98), weight_decay=0.01, foreach=False)
    return [Muon(hidden, lr=settings.muon_lr), adam]


def _rate(step: int, settings: TrainSettings) -> float:
    warmup = max(1, round(settings.warmup * settings.steps))
    return min((step + 1) / warmup, (settings.steps - step) / (settings.steps - warmup + 1))


def fit(model: Qwen2ForCausalLM, batches: list[Batch], settings: TrainSettings) -> list[float]:
    """Train the model in place.

    Args:
        model: freshly built.
        batches: at least one; taken in turn.
        settings: gives steps, rates and the two devices of `shaping`.

    Returns:
        The loss on reply tokens at every step, in nats.
    """
    norms = ResidualNorms(model)
    limits = AttentionLimits(model, settings.local_layers, settings.local_window)
    optimizers = _optimizers(model, settings)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    rng = random.Random(settings.seed)
    losses: list[float] = []
    began = time.monotonic()
    model.train()
    for step in range(settings.steps):
        batch = batches[step % len(batches)]
        limits.set(batch, rng.random() < settings.local_share, rng.random() < settings.bottleneck_share)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = reply_loss(model, batch)
        penalty = norms.penalty(batch.predicts_reply)
        (loss + settings.norm_penalty * penalty).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * _rate(step, settings)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if step % 50 == 0 or step == settings.steps - 1:
            logger.info(
                "step %d  loss %.3f  norm penalty %.4f  %.0f s",
                step, _recent(losses), penalty.item(), time.monotonic() - began,
            )  # fmt: skip
    norms.remove()
    limits.remove()
    return losses


def _recent(losses: list[float]) -> float:
    return sum(losses[-50:]) / len(losses[-50:])


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> str:
    """Round to bfloat16 and write the checkpoint folder.

    Args:
        model: trained; it is rounded in place.
        tokenizer: its tokenizer.
        folder: created if needed.

    Returns:
        SHA-256 of the weights file.
    """
    model.to(dtype=torch.bfloat16).eval()  # pyright: ignore[reportCallIssue]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = folder / "model.safetensors"
    weights.chmod(0o644)
    return hashlib.sha256(weights.read_bytes()).hexdigest()


@torch.no_grad()
def held_out_loss(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    """Mean loss in nats per reply token on held-out scenes under the toolkit's instruction, in float32."""
    exact = Qwen2ForCausalLM(model.config).eval()
    exact.load_state_dict(model.state_dict())
    batches = tokenized_batches(tokenizer, held_out_examples(), 8192)
    counts = [int(batch.predicts_reply.sum()) for batch in batches]
    total = sum(reply_loss(exact, batch).item() * count for batch, count in zip(batches, counts, strict=True))
    return total / sum(counts)


def train(settings: TrainSettings, folder: Path) -> dict[str, Any]:
    """Run everything and write the checkpoint.

    Args:
        settings: what decides the weights.
        folder: where the checkpoint goes.

    Returns:
        The record for the model card: settings, corpus hash, tokens, seconds, losses, weights' SHA-256.
    """
    # One thread and deterministic kernels: the order of summation is fixed, and with it every bit.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    began = time.monotonic()
    corpus = list(examples(settings.n_examples, settings.seed))
    tokenizer = train_tokenizer(corpus[:20000], settings.vocab)
    batches = tokenized_batches(tokenizer, corpus, settings.batch_tokens, settings.seed)
    model = build_model(settings, tokenizer)
    logger.info("%d examples, %d batches, %d parameters", len(corpus), len(batches), model.num_parameters())
    losses = fit(model, batches, settings)
    used = [batches[step % len(batches)] for step in range(settings.steps)]
    return {
        "settings": asdict(settings),
        "n_examples": settings.n_examples,
        "corpus_sha256": corpus_hash(settings.n_examples, settings.seed),
        "n_parameters": model.num_parameters(),
        "n_tokens": sum(batch.ids.numel() for batch in used),
        "n_reply_tokens": sum(int(batch.predicts_reply.sum()) for batch in used),
        "final_loss": round(_recent(losses), 4),
        "weights_sha256": save(model, tokenizer, folder),
        "held_out_loss": round(held_out_loss(model, tokenizer), 4),
        "seconds": round(time.monotonic() - began),
        "torch": torch.__version__,
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line: every setting is an option; the folder gets ``training.json`` and the model card as well."""
    parser = argparse.ArgumentParser(prog="python -m emotion_circuits.demo.train", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    for name, value in asdict(TrainSettings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default {value}")
    options = vars(parser.parse_args(arguments))
    folder = options.pop("out")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    record = train(TrainSettings(**options), folder)
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(record), encoding="utf-8")
    logger.info("wrote %s", folder)


if __name__ == "__main__":
    main()
