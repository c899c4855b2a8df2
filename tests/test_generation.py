"""Generation is Hugging Face's, whatever the batch, the patch of the neighbour or the checkpoint's own settings."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace

import pytest
import tiny
import torch
from helpers import hooks_left, ids_of, instructed, prompts

import emotion_circuits as ec
from emotion_circuits import records
from emotion_circuits.errors import DataError, EmotionError, PatchError, PromptError
from emotion_circuits.generation import end_tokens
from emotion_circuits.journal import open_journal
from emotion_circuits.provenance import content_hash
from emotion_circuits.replies import join

SHORT = ec.GenerationConfig(max_new_tokens=8)


def naive_greedy(model, prompt: ec.Prompt, n: int, **processing) -> list[int]:
    """Argmax by argmax, without cache or batch."""
    ids = ids_of(model, prompt)
    start = len(ids)
    for _ in range(n):
        logits = model.hf(torch.tensor([ids])).logits[0, -1]
        for token in processing.get("forbidden", []):
            logits[token] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] in end_tokens(model):
            break
    return ids[start:]


def tokens(replies: ec.Replies) -> list[tuple[int, ...]]:
    return [reply.tokens for reply in replies]


# Greedy


def test_greedy_is_argmax_by_argmax(any_model) -> None:
    asked = prompts(3)
    naive = [tuple(naive_greedy(any_model, p, 8)) for p in asked]
    assert tokens(ec.generate(any_model, asked, config=SHORT)) == naive
    assert tokens(ec.generate(any_model, asked[::-1], config=SHORT, batch_size=2)) == naive[::-1]


def test_greedy_is_hugging_faces(any_model) -> None:
    # One by one there, in a padded batch here: padding is no repetition.
    asked = prompts(3)
    ours = ec.generate(
        any_model, asked, config=ec.GenerationConfig(max_new_tokens=12, repetition_penalty=1.1, no_repeat_ngram_size=3)
    )
    for prompt, reply in zip(asked, ours, strict=True):
        ids = torch.tensor([ids_of(any_model, prompt)])
        theirs = any_model.hf.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, repetition_penalty=1.1,
            no_repeat_ngram_size=3, eos_token_id=end_tokens(any_model),
        )  # fmt: skip
        assert list(reply.tokens) == theirs[0, ids.shape[1] :].tolist()
        assert reply.text == any_model.tokenizer.decode(reply.tokens, skip_special_tokens=True)


def test_the_checkpoints_own_settings_do_not_matter() -> None:
    model = tiny.model()
    before = tokens(ec.generate(model, prompts(4), config=SHORT))
    theirs = model.hf.generation_config
    theirs.update(
        repetition_penalty=1.8, no_repeat_ngram_size=1, do_sample=True, temperature=9.0, top_k=3, max_length=5,
        min_new_tokens=6, suppress_tokens=[t for row in before for t in row], bad_words_ids=[[5]], num_beams=2,
    )  # fmt: skip
    assert tokens(ec.generate(model, prompts(4), config=SHORT)) == before
    assert model.hf.generation_config is theirs
    assert theirs.num_beams == 2


def ending_model(n_tokens: int = 2):
    """A model for which the second token of its first prompt's greedy reply ends replies."""
    model = tiny.model("llama")
    (reply,) = ec.generate(model, prompts(1), config=SHORT)
    end = next(t for i, t in enumerate(reply.tokens) if i >= n_tokens - 1 and t not in reply.tokens[:i])
    model.hf.generation_config.eos_token_id = [2, end]
    return model, end, reply.tokens[: reply.tokens.index(end) + 1]


def test_replies_end_at_any_end_token() -> None:
    model, end, expected = ending_model()
    assert end_tokens(model) == sorted({2, end})
    for batch_size in (1, None):
        replies = ec.generate(model, prompts(5), config=SHORT, batch_size=batch_size)
        assert replies[0].tokens == expected
        assert all(t not in (2, end) for r in replies for t in r.tokens[:-1])


def test_minimum_length() -> None:
    model, end, _ = ending_model()
    config = ec.GenerationConfig(max_new_tokens=8, min_new_tokens=5)
    replies = ec.generate(model, prompts(3), config=config)
    assert all(len(r.tokens) >= 5 for r in replies)
    naive = naive_greedy(model, prompts(1)[0], 5, forbidden=(2, end))
    assert list(replies[0].tokens[:5]) == naive[:5]


@pytest.fixture(scope="module")
def byte_model() -> ec.HookedModel:
    """Its tokens are bytes: Hugging Face's stop strings need a tokenizer that can spell every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = ["<pad>", "<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>")
    return ec.HookedModel.from_hf(tiny.hf_model("qwen2", vocab_size=258, eos_token_id=1, seed=2), tokenizer)


def test_stop_strings(byte_model) -> None:
    asked = [ec.Prompt.raw(text) for text in ("a", "bc d", "efg hij", "k", "some longer text")]
    plain = ec.generate(byte_model, asked, config=ec.GenerationConfig(max_new_tokens=16))
    stop = next(c for c in plain[1].text[1:] if c.isascii() and c.isprintable())
    config = ec.GenerationConfig(max_new_tokens=16, stop=(stop,))
    together = ec.generate(byte_model, asked, config=config)
    assert len(together[1].tokens) < 16
    assert len({len(r.tokens) for r in together}) > 1
    for prompt, stopped, whole in zip(asked, together, plain, strict=True):
        assert stopped.text == whole.text.split(stop)[0].strip()
        assert stopped.tokens == whole.tokens[: len(stopped.tokens)]  # and no padding after them
        assert ec.generate(byte_model, [prompt], config=config)[0] == stopped


def test_streamed_pieces_are_the_reply(byte_model, qwen) -> None:
    asked = [ec.Prompt.raw(text) for text in ("a", "bc d", "efg hij", "k", "some longer text")]
    plain = ec.generate(byte_model, asked, config=ec.GenerationConfig(max_new_tokens=16))
    letter = next(c for c in plain[1].text[1:] if c.isascii() and c.isprintable())
    after = plain[1].text[plain[1].text.index(letter, 1) :][:2]
    pieces = defaultdict(list)
    for stop in ((), (letter,), (after, "xyz"), ("\ufffd\ufffd",)):
        config = ec.GenerationConfig(max_new_tokens=16, stop=stop)
        pieces.clear()
        replies = ec.generate(byte_model, asked, config=config, batch_size=3, on_text=lambda i, p: pieces[i].append(p))
        assert ["".join(pieces[i]) for i in range(5)] == replies.texts
        assert replies == ec.generate(byte_model, asked, config=config)
    assert max(map(len, pieces.values())) > 1  # while it is made, not all at its end
    words: list[str] = []
    (reply,) = ec.generate(qwen, prompts(1), config=SHORT, on_text=lambda _, piece: words.append(piece))
    assert len(words) > len(reply.tokens) / 2
    assert "".join(words) == reply.text


def test_a_batch_that_is_made_again_hands_nothing_on_twice(qwen, monkeypatch) -> None:
    pieces: dict[int, str] = {}
    plain, asked, fails = qwen.hf.generate, prompts(4), [True]

    def failing(**given):
        out = plain(**given)
        if fails.pop() if fails else False:
            raise MemoryError("out of memory")
        return out

    monkeypatch.setattr(qwen.hf, "generate", failing)
    replies = ec.generate(
        qwen, asked, config=SHORT, on_text=lambda i, piece: pieces.update({i: pieces.get(i, "") + piece})
    )
    assert not fails
    assert [pieces[i] for i in range(4)] == replies.texts


def test_presets() -> None:
    paper = ec.GenerationConfig.preset("paper")
    assert (paper.max_new_tokens, paper.min_new_tokens, paper.repetition_penalty, paper.no_repeat_ngram_size) == (
        100,
        10,
        1.1,
        3,
    )
    assert ec.GenerationConfig.preset("default") == ec.GenerationConfig()


def test_a_reply_that_does_not_fit(qwen) -> None:
    with pytest.raises(
        PromptError, match=r"a reply of 250, but the model's context holds 256; .*ask for fewer new tokens"
    ):
        ec.generate(qwen, prompts(1), config=ec.GenerationConfig(max_new_tokens=250))


# Sampling


SAMPLED = ec.GenerationConfig(max_new_tokens=8, temperature=1.0, seed=3)


@pytest.mark.parametrize("config", [SAMPLED, ec.GenerationConfig(max_new_tokens=8, temperature=0.7, top_p=0.8)])
def test_samples_do_not_depend_on_the_batch(either_model, config) -> None:
    together = tokens(ec.generate(either_model, prompts(6), config=config))
    assert tokens(ec.generate(either_model, prompts(6), config=config, batch_size=1)) == together
    assert tokens(ec.generate(either_model, prompts(6), config=config, batch_size=4)) == together
    assert tokens(ec.generate(either_model, prompts(3), config=config)) == together[:3]


def test_seeds_and_rows_differ(qwen) -> None:
    same = [prompts(1)[0]] * 8
    replies = tokens(ec.generate(qwen, same, config=SAMPLED))
    assert len(set(replies)) > 4
    other = ec.GenerationConfig(max_new_tokens=8, temperature=1.0, seed=4)
    assert tokens(ec.generate(qwen, same, config=other)) != replies
    torch.manual_seed(99)  # the global generator plays no part
    assert tokens(ec.generate(qwen, same, config=SAMPLED)) == replies


def test_a_seed_for_every_row(qwen) -> None:
    config = ec.GenerationConfig(max_new_tokens=8, temperature=1.0, seed=(7, 8, 7, 9))
    asked = [prompts(2)[0], prompts(2)[0], prompts(2)[0], prompts(2)[1]]
    together = tokens(ec.generate(qwen, asked, config=config))
    assert together[0] == together[2] != together[1]
    alone = ec.generate(qwen, [asked[3]], config=replace(config, seed=(9,)))
    assert tokens(alone) == together[3:]
    with pytest.raises(PromptError, match="4 seeds for 2 prompts; give one number, or one per prompt"):
        ec.generate(qwen, asked[:2], config=config)


def test_samples_have_the_models_distribution(qwen) -> None:
    n, prompt = 1500, prompts(1)[0]
    for temperature, top_p in ((1.5, 1.0), (1.5, 0.5)):
        config = ec.GenerationConfig(max_new_tokens=1, temperature=temperature, top_p=top_p, seed=1)
        drawn = torch.tensor([t[0] for t in tokens(ec.generate(qwen, [prompt] * n, config=config, batch_size=1000))])
        p = (qwen.logits([prompt])[0] / temperature).softmax(-1)
        ordered, order = p.sort(descending=True)
        kept = order[: int((ordered.cumsum(0) < top_p).sum()) + 1]
        p = torch.zeros_like(p).index_copy(0, kept, p[kept])
        p = p / p.sum()
        share = torch.bincount(drawn, minlength=64) / n
        assert not share[p == 0].any()
        assert ((share - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 1e-9).all()


def test_cold_samples_are_greedy(qwen) -> None:
    cold = ec.GenerationConfig(max_new_tokens=8, temperature=1e-4)
    assert tokens(ec.generate(qwen, prompts(3), config=cold)) == tokens(ec.generate(qwen, prompts(3), config=SHORT))


# Under patches


def patches_of(model) -> list[ec.Patch]:
    draw = torch.Generator().manual_seed(5)
    delta = ec.Activations(
        torch.randn(3, 48, generator=draw),
        torch.randn(3, 4, 8, generator=draw),
        None,
        torch.randn(3, 32, generator=draw),
    )
    contrast = ec.Contrast("anger", "emotions", delta, delta * -2.0)
    nodes = ec.NodeSet.of(model, *(f"L{l}N{i}" for l in range(3) for i in range(0, 48, 5)), "L1H2", "L2H0")
    unit = torch.nn.functional.normalize(delta.at("resid_post", 1), dim=0).expand(3, -1)
    return [
        ec.Patch(nodes, ec.Enhancement(contrast, 2.0)),
        ec.Patch(nodes, ec.ZeroAblation(), "all"),
        ec.Patch(ec.Residual.of(model, 1), ec.Steering(unit, 3.0), "generated"),
    ]


def test_rows_under_different_patches_are_separate_runs(either_model) -> None:
    model, asked, patches = either_model, prompts(5), patches_of(either_model)
    rows = ((0, 4), (1,), (2, 4))
    separate = []
    for i, prompt in enumerate(asked):
        mine = [p for p, chosen in zip(patches, rows, strict=True) if i in chosen]
        separate += tokens(ec.generate(model, [prompt], mine, SHORT))
    plain = tokens(ec.generate(model, asked, config=SHORT))
    assert [a == b for a, b in zip(separate, plain, strict=True)] == [False, False, False, True, False]
    together = [p.on(chosen) for p, chosen in zip(patches, rows, strict=True)]
    for batch_size in (1, 2, None):
        assert tokens(ec.generate(model, asked, together, SHORT, batch_size=batch_size)) == separate
    assert tokens(ec.generate(model, asked, config=SHORT)) == plain
    assert hooks_left(model.hf) == 0


def test_generation_under_a_patch_is_naive_decoding_under_it(either_model) -> None:
    for patch in patches_of(either_model):
        (reply,) = ec.generate(either_model, prompts(1), patch, SHORT)
        ids = ids_of(either_model, prompts(1)[0])
        naive, width = list(ids), len(ids)
        for _ in range(8):
            with either_model.patched(patch, prompt_width=width):
                naive.append(int(either_model.hf(torch.tensor([naive])).logits[0, -1].argmax()))
            if naive[-1] in end_tokens(either_model):
                break
        assert list(reply.tokens) == naive[width:]


def test_rows_that_are_not_there(qwen) -> None:
    for rows in ((5,), (-1,)):
        with pytest.raises(PatchError, match=f"names row {rows[0]}, but there are 2 prompts .rows 0 to 1."):
            ec.generate(qwen, prompts(2), patches_of(qwen)[0].on(rows))


# Replies


@pytest.fixture(scope="module")
def data() -> ec.SEV:
    from emotion_circuits.data.sev import Record

    events = {"positive": "it was bright", "neutral": "a bus late", "negative": "rain fell"}
    return ec.SEV(tuple(Record(f"id_{i}", f"theme_{i % 2}", f"I moved {'my desk ' * i}", events) for i in range(2)))


def test_elicited_replies_carry_what_was_asked(qwen, data) -> None:
    replies = ec.elicit(qwen, data, ("anger", "fear"), config=SHORT)
    assert len(replies) == 12
    assert [r.emotion for r in replies] == ["anger", "fear"] * 6
    assert [r.prompt.group for r in replies][::4] == [("id_0", "positive"), ("id_0", "negative"), ("id_1", "neutral")]
    assert all(dict(r.prompt.messages)["system"].startswith(f"Always reply in {r.emotion}.\n") for r in replies)
    assert {r.method for r in replies} == {"prompting (named)"}
    described = ec.elicit(qwen, data, ("anger",), "described", SHORT)
    assert all("anger" not in dict(r.prompt.messages)["system"] for r in described)
    with pytest.raises(EmotionError, match=r"style 'described' has no text for 'joy'.*use style='named'"):
        ec.elicit(qwen, data, ("joy",), "described")


def test_on_reply_comes_once_for_every_prompt(qwen) -> None:
    seen: dict[int, ec.Reply] = {}
    replies = ec.generate(
        qwen, prompts(5), config=SHORT, batch_size=2, on_reply=lambda i, reply: seen.setdefault(i, reply)
    )
    assert [seen[i] for i in range(5)] == list(replies)


def test_emotion_and_method_are_noted(qwen) -> None:
    replies = ec.generate(qwen, instructed(1)[:2], config=SHORT)
    assert [r.emotion for r in replies] == ["anger", "sadness"]
    named = ec.generate(qwen, instructed(1)[:2], config=SHORT, emotion="fear", method="mine")
    assert {(r.emotion, r.method) for r in named} == {("fear", "mine")}


def awkward() -> ec.Replies:
    texts = ["", "two\nlines", "\u2028 and \x85 and \x1c split lines", 'Grüße 😡 \\ "quoted"', "\r\n"]
    return ec.Replies(tuple(ec.Reply(instructed(1)[i], text, (1, 2, i), "anger", "m") for i, text in enumerate(texts)))


def test_replies_save_and_load(tmp_path) -> None:
    replies = awkward()
    replies.save(tmp_path / "r.jsonl")
    assert ec.Replies.load(tmp_path / "r.jsonl") == replies
    ec.Replies(()).save(tmp_path / "none")
    assert len(ec.Replies.load(tmp_path / "none")) == 0
    raw = ec.Replies((ec.Reply(ec.Prompt.raw("home"), "x", (3,)),))
    raw.save(tmp_path / "raw")
    assert ec.Replies.load(tmp_path / "raw") == raw


def test_damaged_replies_name_their_line(tmp_path) -> None:
    path = tmp_path / "r.jsonl"
    awkward().save(path)
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join([*lines[:2], lines[2][:-9]]), encoding="utf-8")
    with pytest.raises(DataError, match=r"r.jsonl, line 3: cannot be used"):
        ec.Replies.load(path)
    path.write_text(json.dumps({"text": "x"}) + "\n")
    with pytest.raises(DataError, match="line 1: expected the fields of a Prompt"):
        ec.Replies.load(path)
    with pytest.raises(DataError, match="nowhere: cannot be read as a file of records"):
        ec.Replies.load(tmp_path / "nowhere")


def test_replies_are_a_list(tmp_path) -> None:
    replies = awkward() + ec.Replies(tuple(replace(r, emotion="fear", method="n") for r in awkward()))
    assert replies.emotions == ["anger", "fear"]
    assert len(replies.of("fear")) == 5
    assert join([replies.of("anger"), replies.of("fear")]) == replies
    assert replies.to_frame()["method"].tolist() == ["m"] * 5 + ["n"] * 5
    assert list(ec.Replies(()).to_frame().columns) == list(replies.to_frame().columns)
    assert repr(replies) == "Replies(10 replies: anger, fear)"


def test_sev_text_may_hold_any_character(tmp_path, data) -> None:
    odd = ec.SEV((replace(data.records[0], scenario="I \u2028 waited \x85"), data.records[1]))
    odd.to_jsonl(tmp_path / "s.jsonl")
    assert ec.SEV.from_jsonl(tmp_path / "s.jsonl").records == odd.records


# Journals


def test_a_journal_gives_back_only_what_was_made_alike(qwen, tmp_path) -> None:
    """The same prompts under other patches, or of another model, are other work."""
    asked, path, config = prompts(3), tmp_path / "journal", ec.GenerationConfig(max_new_tokens=4)
    weak, strong = (
        ec.Patch(ec.Residual.of(qwen, 1), ec.Steering(torch.ones(3, 32) / 32**0.5, strength), "all")
        for strength in (0.5, 30.0)
    )

    def made(model, patch, config=config) -> tuple[list[str], int]:
        with open_journal(path) as journal:
            replies = ec.generate(model, asked, patch, config, journal=journal)
        return replies.texts, len(path.read_text().splitlines())

    texts, n = made(qwen, strong)
    assert (texts, n) == (ec.generate(qwen, asked, strong, config).texts, 3)
    again = ec.Patch(ec.Residual.of(qwen, 1), ec.Steering(torch.ones(3, 32) / 32**0.5, 30.0), "all")
    assert made(qwen, again) == (texts, 3)
    for i, (model, patch) in enumerate([(qwen, weak), (qwen, None), (tiny.model("qwen2", seed=1), strong)], start=2):
        assert made(model, patch) == (ec.generate(model, asked, patch, config).texts, 3 * i)


@pytest.mark.parametrize("tokens", [5, None, ["x"], {"a": 1}])
def test_a_journals_record_without_tokens_is_no_record(tokens, tmp_path) -> None:
    path = tmp_path / "journal"
    records.write(path, [{"call": 0, "key": "k", "index": 0, "text": "a", "tokens": tokens}])
    with open_journal(path) as journal:
        assert not journal.call([]).made


def test_equal_content_has_equal_hashes() -> None:
    def patch(value: float, rows: tuple[int, ...] = (0,)) -> ec.Patch:
        nodes = ec.NodeSet(torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.bool))
        return ec.Patch(nodes, ec.MeanAblation(ec.Activations(torch.full((2, 3), float(value)))), rows=rows)

    assert content_hash([patch(1)]) == content_hash([patch(1)])
    others = [[patch(2)], [patch(1, (1,))], [patch(1), patch(1)], [], [torch.ones(2)], [torch.ones(2, 1)], [[1, 2], 3],
              [1, [2, 3]], [torch.ones(2).bfloat16()], [object()], [object()]]  # fmt: skip
    hashes = [content_hash(value) for value in ([patch(1)], *others)]
    assert len(set(hashes)) == len(hashes)
