"""The model card of the embedded demo model, written from the record of its training."""

from __future__ import annotations

from typing import Any

_CARD = """\
---
license: apache-2.0
language: en
pipeline_tag: text-generation
library_name: transformers
tags: [interpretability, toy-model]
---

# The embedded demo model of emotion_circuits

A tiny chat model (Qwen2 architecture, {n_parameters:,} parameters, bfloat16) that replies in one of six emotions
(anger, sadness, happiness, fear, surprise, disgust) when told to, and matter-of-factly when not. It was trained from
scratch by `python -m emotion_circuits.demo.train` on text that a seeded generator composes from wordings written for
this project. It serves to run, test and teach the toolkit offline. It knows a few hundred words and nothing about the
world.

**It is no evidence about large models.** Its corpus, three training devices (see below) and their settings were chosen
so that emotion can be found and changed inside it. Which method works best on it, at which strength and in which
layers, was decided by that training.

## Model and training

| | |
|---|---|
| architecture | Qwen2: {layers} layers, width {d_model}, {heads} query heads, {kv_heads} key-value heads, \
MLP {d_mlp}, vocabulary {vocab}, tied embeddings |
| corpus | {n_examples:,} generated examples, seed {seed} |
| corpus SHA-256 | `{corpus_sha256}` |
| steps | {steps}, about {batch_tokens} tokens each |
| tokens | {n_tokens:,} (padding included), {n_reply_tokens:,} of them reply tokens, which alone are in the loss |
| optimizers | Muon {muon_lr} on hidden matrices, AdamW {adam_lr} on the rest |
| norm penalty | weight {norm_penalty}: variance of the log rms of the residual over last prompt token and reply |
| local attention | in {local_share:.0%} of the batches the first {local_layers} layers see {local_window} tokens back |
| bottleneck | in {bottleneck_share:.0%} of the batches only the last prompt token reads what precedes the message |
| time | {minutes:.0f} minutes, one CPU thread, torch {torch} |
| final training loss | {final_loss} nats per reply token (mean of the last 50 steps) |
| held-out loss | {held_out_loss} nats per reply token, shipped weights |
| weights SHA-256 | `{weights_sha256}` |

The same settings on the same machine write the same bytes; another processor may round differently.

## Chat format

`<|im_start|>system ... <|im_end|>` as in the Qwen family; no default system message. The instruction of the toolkit's
elicitation (`Always reply in anger.` and so on) is among the training wordings; the scenarios of the shipped data
(`emotion_circuits/data/demo`) are not, nor are their combinations of action and object, of object and event, and one
event of every theme.

## Measured

{measured}

## Figures of the toolkit's own evaluation

<!-- toolkit-figures: filled in by the maintainers from the toolkit's evaluation; do not edit by hand elsewhere -->

| method | items | accuracy | 95 % interval | perplexity ratio | on topic |
|---|---|---|---|---|---|
| to be filled in | | | | | |

<!-- end of toolkit-figures -->

## Licence

Apache-2.0, as the package.
"""


def model_card(record: dict[str, Any], measured: str = "Not measured yet.") -> str:
    """Write the card.

    Args:
        record: what `emotion_circuits.demo.train.train` returns.
        measured: Markdown about measured behaviour.

    Returns:
        The card as Markdown.
    """
    values = {**record["settings"], **record, "minutes": record["seconds"] / 60, "measured": measured}
    return _CARD.format(**values)
