"""Chat templates: token ids are always the template's, and no system message is ever lost."""

from __future__ import annotations

import pytest
import tiny
import torch
from helpers import prompts

import emotion_circuits as ec

GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "<|im_start|> {{ m['role'] }} {{ m['content'] | trim }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
DEAF = (
    "{% for m in messages %}{% if m['role'] != 'system' %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> "
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
STRIPPING = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'].strip() }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
BOS = "{{ bos_token }} " + tiny.TEMPLATE


def with_template(template: str, *, adds_bos: bool = False):
    tokenizer = tiny.tokenizer(template)
    tokenizer.bos_token = "<|endoftext|>"
    if adds_bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
        )
    return tokenizer


def model_with(tokenizer) -> ec.HookedModel:
    return ec.HookedModel.from_hf(tiny.hf_model(), tokenizer)


@pytest.mark.parametrize("template", [tiny.TEMPLATE, GEMMA, DEAF, STRIPPING, BOS])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_token_ids_are_always_the_templates(template: str, adds_bos: bool) -> None:
    tokenizer = with_template(template, adds_bos=adds_bos)
    model = model_with(tokenizer)
    chat = [{"role": "user", "content": " home rain fell "}]
    expected = tokenizer.apply_chat_template(chat, tokenize=True, add_generation_prompt=True)["input_ids"]
    assert model.tokens([ec.Prompt.user(" home rain fell ")]) == [expected]
    turns = [*chat, {"role": "assistant", "content": "a friend called"}, {"role": "user", "content": "work"}]
    expected = tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=True)["input_ids"]
    asked = ec.Prompt(tuple((turn["role"], turn["content"]) for turn in turns))
    assert model.tokens([asked]) == [expected]


@pytest.mark.parametrize("template", [tiny.TEMPLATE, STRIPPING, BOS])
def test_a_system_role_is_used_where_there_is_one(template: str) -> None:
    tokenizer = with_template(template)
    chat = [{"role": "system", "content": "keep the reply"}, {"role": "user", "content": "home"}]
    expected = tokenizer.apply_chat_template(chat, tokenize=True, add_generation_prompt=True)["input_ids"]
    assert model_with(tokenizer).tokens([ec.Prompt.user("home", "keep the reply")]) == [expected]


@pytest.mark.parametrize("template", [GEMMA, DEAF])
def test_a_system_message_is_never_lost(template: str) -> None:
    tokenizer = with_template(template)
    merged = [{"role": "user", "content": "keep the reply\n\nhome"}]
    expected = tokenizer.apply_chat_template(merged, tokenize=True, add_generation_prompt=True)["input_ids"]
    assert model_with(tokenizer).tokens([ec.Prompt.user("home", "keep the reply")]) == [expected]


@pytest.mark.parametrize("adds_bos", [False, True])
def test_begin_of_text_is_never_doubled(adds_bos: bool) -> None:
    tokenizer = with_template(BOS, adds_bos=adds_bos)
    model, bos = model_with(tokenizer), tokenizer.bos_token_id
    (ids,) = model.tokens([ec.Prompt.user("home")])
    assert ids.count(bos) == 1
    (raw,) = model.tokens([ec.Prompt.raw("<|endoftext|> home")])
    assert raw.count(bos) == 1
    (plain,) = model.tokens([ec.Prompt.raw("home")])
    assert plain.count(bos) == adds_bos


def test_a_tokenizer_without_pad_token() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = None
    model = model_with(tokenizer)
    assert tokenizer.pad_token is None, "the caller's tokenizer stays as it was"
    reference = model_with(tiny.tokenizer())
    assert torch.allclose(model.logits(prompts(4)), reference.logits(prompts(4)), atol=1e-6)
    config = ec.GenerationConfig(max_new_tokens=4)
    assert (
        ec.generate(model, prompts(4), config=config).texts == ec.generate(reference, prompts(4), config=config).texts
    )


def test_a_tokenizer_without_any_special_token() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    model = model_with(tokenizer)
    reference = model_with(tiny.tokenizer())
    assert torch.allclose(model.logits(prompts(4)), reference.logits(prompts(4)), atol=1e-6)
