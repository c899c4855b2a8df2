"""The embedded demo model: its corpus, its data, its tokenizer, its weights, and the training that made them."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from emotion_circuits.demo import MODEL_FOLDER, corpus, scenes, wordings
from emotion_circuits.demo.batches import make_batches
from emotion_circuits.demo.muon import orthogonalise
from emotion_circuits.demo.shaping import bottleneck_mask, local_mask
from emotion_circuits.demo.tokenizer import encode, train_tokenizer
from emotion_circuits.demo.train import TrainSettings, build_model, fit, main, tokenized_batches

TINY = TrainSettings(
    steps=20, adam_lr=1e-2, batch_tokens=1024, layers=2, d_model=32, heads=2, kv_heads=1, d_mlp=64, vocab=600
)

EMOTION_WORD = re.compile(
    r"\b(anger|angry|furious|rage|fury|mad|sad|sadness|sorrow|grief|(un)?happy|happiness|joy(ful)?|delight(ed)?|glad"
    r"|fear|afraid|scared|terrified|terror|dread|worried|anxious|surprised?|astonished|amazed|shocked|disgust(ed)?"
    r"|revolting|gross|upset|excited|proud|disappointed|annoyed|love|hate|enjoy(ed)?|lonely|pleased)\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def tiny_tokenizer():
    return train_tokenizer(corpus.examples(300), TINY.vocab)


@pytest.fixture(scope="module")
def shipped_tokenizer():
    return AutoTokenizer.from_pretrained(MODEL_FOLDER, local_files_only=True)


def test_same_seed_same_corpus():
    assert corpus.corpus_hash(200, seed=3) == corpus.corpus_hash(200, seed=3)
    assert corpus.corpus_hash(200, seed=3) != corpus.corpus_hash(200, seed=4)


def test_mixture_is_as_stated():
    drawn = list(corpus.examples(4000))
    for source, share in corpus.SOURCES.items():
        assert sum(item.source == source for item in drawn) / len(drawn) == pytest.approx(share, abs=0.03)
    free = [item.mood for item in drawn if item.source == "none"]
    assert free.count("neutral") / len(free) == pytest.approx(corpus.NEUTRAL_SHARE, abs=0.04)


def test_canonical_prompts_are_among_the_training_prompts():
    systems = {item.messages[0]["content"] for item in corpus.examples(2000) if item.messages[0]["role"] == "system"}
    assert "Keep the reply to at most two sentences." in systems
    for emotion in wordings.EMOTIONS:
        assert f"Always reply in {emotion}.\nKeep the reply to at most two sentences." in systems


@pytest.mark.parametrize("mood", [*wordings.EMOTIONS, wordings.NEUTRAL])
def test_every_mood_has_sixty_different_wordings(mood):
    table = wordings.MOODS[mood]
    sentences = {*table.FIRST, *table.SECOND}
    assert len(sentences) == len(table.FIRST) + len(table.SECOND) >= 60


def test_moods_share_no_sentence():
    tables = list(wordings.MOODS.values())
    sentences = [text for table in tables for text in (*table.FIRST, *table.SECOND, *table.CLAUSES)]
    assert len(sentences) == len(set(sentences))


def test_described_states_never_name_an_emotion():
    for states in wordings.DESCRIBED_STATES.values():
        for state in states:
            assert not EMOTION_WORD.search(state), state


def test_replies_mention_the_scene():
    rng = random.Random(0)
    mentions = 0
    for _ in range(700):
        scene = scenes.training_scene(rng)
        reply = corpus.compose_reply(rng, scene, rng.choice(list(wordings.MOODS))).lower()
        mentions += scene.object in reply or scene.person in reply
    assert mentions / 700 > 0.95


def test_splits_are_disjoint_from_each_other_and_from_training():
    splits = scenes.held_out_scenes()
    assert {name: len(split) for name, split in splits.items()} == scenes.SPLIT_SIZES
    pairs = [scene.pair for split in splits.values() for scene in split]
    assert len(pairs) == len(set(pairs))
    rng = random.Random(1)
    trained = [scenes.training_scene(rng) for _ in range(5000)]
    assert not {scene.pair for scene in trained} & set(pairs)
    held_out_events = {event for split in splits.values() for scene in split for event in scene.events}
    # Training may draw the same frame of an event, but never with the same object.
    objects = {(event, scene.object) for scene in trained for event in scene.events}
    assert not {(event, thing) for event, thing in objects if event in held_out_events and thing in event}


def test_shipped_data_is_what_the_generator_writes(tmp_path: Path):
    for path in scenes.write_sev(tmp_path):
        assert path.read_bytes() == (scenes.DATA_FOLDER / path.name).read_bytes()


def test_shipped_data_names_no_emotion():
    for split, size in scenes.SPLIT_SIZES.items():
        lines = (scenes.DATA_FOLDER / f"{split}.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert len(records) == size == len({record["skeleton_id"] for record in records})
        for record in records:
            text = " ".join([record["scenario"], *record["event"].values()])
            assert not EMOTION_WORD.search(text), text
            assert not record["scenario"].endswith(".")
            assert list(record["event"]) == list(scenes.VALENCES)


def test_orthogonalise_evens_the_singular_values():
    matrix = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_batches_keep_every_example_and_mask_the_reply():
    encoded = [([1] + [3] * n + [1], [2] * (n % 5 + 1)) for n in range(3, 30)]
    batches = make_batches(encoded, batch_tokens=100, pad=0, turn=1)
    assert sum(len(batch.ids) for batch in batches) == len(encoded)
    assert sum(int(batch.predicts_reply.sum()) for batch in batches) == sum(len(reply) for _, reply in encoded)
    for batch in batches:
        assert batch.ids.numel() <= 100
        assert (batch.ids[:, 1:][batch.predicts_reply[:, :-1]] == 2).all()


def test_bottleneck_lets_only_the_last_prompt_token_read_the_instruction():
    batch = make_batches([([1, 5, 5, 1, 6, 1, 7], [8, 8, 8])], batch_tokens=100, pad=0, turn=1)[0]
    mask = bottleneck_mask(batch)[0, 0]
    readers = [position for position in range(3, 10) if mask[position, 1:3].any()]
    assert readers == [6]
    assert mask[:, 0].all()
    assert mask[9, 3:].all()
    assert not mask.triu(1).any()


def test_local_mask_has_its_width():
    assert local_mask(6, 2)[0, 0].sum(-1).tolist() == [1, 2, 2, 2, 2, 2]


def test_encoding_equals_the_chat_template(tiny_tokenizer):
    items = list(corpus.examples(20, seed=5))
    for item, (prompt, reply) in zip(items, encode(tiny_tokenizer, items), strict=True):
        rendered = tiny_tokenizer.apply_chat_template(
            list(item.messages), add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert prompt == rendered
        assert reply[-1] == tiny_tokenizer.eos_token_id
        assert tiny_tokenizer.decode(reply[:-1]) == item.reply


def test_a_few_steps_reduce_the_loss(tiny_tokenizer):
    batches = tokenized_batches(tiny_tokenizer, corpus.examples(300), 1024)
    losses = fit(build_model(TINY, tiny_tokenizer), batches, TINY)
    assert losses[-1] < losses[0] - 0.5


def test_same_seed_gives_the_same_bytes(tmp_path: Path):
    options = ["--steps", "3", "--batch-tokens", "512", "--layers", "2", "--d-model", "32", "--d-mlp", "64"]
    threads = torch.get_num_threads()
    try:
        for name in ("one", "two"):
            main(["--out", str(tmp_path / name), *options])
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_shipped_weights_are_the_card_s():
    weights = (MODEL_FOLDER / "model.safetensors").read_bytes()
    card = (MODEL_FOLDER / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(weights).hexdigest() in card
    assert len(weights) <= 8_000_000


@pytest.mark.slow
def test_shipped_corpus_is_the_card_s():
    record = json.loads((MODEL_FOLDER / "training.json").read_text(encoding="utf-8"))
    card = (MODEL_FOLDER / "README.md").read_text(encoding="utf-8")
    assert record["corpus_sha256"] in card
    assert corpus.corpus_hash(record["n_examples"], record["settings"]["seed"]) == record["corpus_sha256"]


def test_shipped_tokenizer(shipped_tokenizer):
    assert shipped_tokenizer.eos_token == "<|im_end|>"
    assert shipped_tokenizer.pad_token == "<|endoftext|>"
    assert shipped_tokenizer.padding_side == "left"
    chat = [{"role": "user", "content": "I finished the report"}]
    text = shipped_tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nI finished the report<|im_end|>\n<|im_start|>assistant\n"
    assert shipped_tokenizer.decode(shipped_tokenizer(text)["input_ids"]) == text


def test_shipped_model_replies_in_an_emotion(shipped_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(MODEL_FOLDER, local_files_only=True, dtype=torch.float32)
    record = json.loads((scenes.DATA_FOLDER / "test.jsonl").read_text().splitlines()[0])
    chat = [
        {"role": "system", "content": "Always reply in fear.\nKeep the reply to at most two sentences."},
        {"role": "user", "content": f"{record['scenario']}\n{record['event']['neutral']}"},
    ]
    ids = shipped_tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    reply = model.generate(**ids, max_new_tokens=40)[0, ids["input_ids"].shape[1] :]
    assert reply[-1] == shipped_tokenizer.eos_token_id
    text = shipped_tokenizer.decode(reply, skip_special_tokens=True)
    assert re.search(r"scare|fear|afraid|fright|terr|panic|dread|worr|nervous|anxious|danger|trembl|shak", text.lower())
