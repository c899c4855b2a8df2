"""`LLMJudge` against a real server of OpenAI's protocol on this machine: ``transformers serve``.

Two models are served: the demo model, which cannot judge, and a model whose weights are written by hand so that it
answers every request with one JSON object.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import served
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from emotion_circuits.demo import MODEL_FOLDER
from emotion_circuits.evaluation.judges import LLMJudge

pytestmark = [pytest.mark.slow]
LOADING = 300.0  # seconds: the first request makes the server load the model
ANSWER = ('{"label":', '"fear"', ',"match":', "true", "}", "<end>")


def always_answers(folder: Path) -> Path:
    """A model that says `ANSWER` whatever it is asked: each token's embedding is read out as the next one."""
    words = ["<pad>", "<unk>", "<go>", *ANSWER]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", eos_token="<end>",
        chat_template="{% for m in messages %}{{ m['content'] }} {% endfor %}<go>",
    )  # fmt: skip
    n = len(words)
    config = LlamaConfig(
        vocab_size=n, hidden_size=n + n % 2, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1,
        eos_token_id=n - 1, pad_token_id=0, bos_token_id=None, max_position_embeddings=2048,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.zero_()  # neither attention nor MLP
        model.model.embed_tokens.weight.copy_(torch.eye(n, config.hidden_size))
        model.lm_head.weight.zero_()
        for token in range(2, n - 1):
            model.lm_head.weight[token + 1, token] = 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Name and URL of the model that answers."""
    pytest.importorskip("openai")
    folder = always_answers(tmp_path_factory.mktemp("judge") / "model")
    with served(folder.parent / "log") as url:
        yield str(folder), url


def test_answers_are_read(answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    model, url = answering
    monkeypatch.setenv("ENDPOINT_KEY", "sk-very-secret")
    caplog.set_level(logging.DEBUG)
    cache = tmp_path / "answers.jsonl"
    judge = LLMJudge(model, url, api_key_env="ENDPOINT_KEY", cache=cache, max_retries=1, timeout=LOADING)
    texts = ["It is dark and I tremble.", "The cup is blue.", "It is dark and I tremble.", ""]
    assert judge.estimate(texts).requests == 2
    assert [s.label for s in judge(texts)] == ["fear", "fear", "fear", None]
    assert judge.estimate(texts).requests == 0
    assert [s.label for s in judge.match(texts[:2], ["fear", "anger"])] == ["fear", "anger"]
    assert len(cache.read_text().splitlines()) == 4
    seen = cache.read_text() + caplog.text + repr(vars(judge))
    assert "sk-very-secret" not in seen


def test_a_model_that_cannot_judge_leaves_all_unscored(answering, tmp_path: Path) -> None:
    judge = LLMJudge(str(MODEL_FOLDER), answering[1], max_retries=0, timeout=LOADING, request={"max_tokens": 24})
    scores = judge(["I am furious.", "The cup is blue."])
    assert [s.label for s in scores] == [None, None]
    assert all("no JSON object" in s.reason or "cut off" in s.reason for s in scores)


def test_a_server_that_fails_leaves_unscored(answering) -> None:
    judge = LLMJudge("/no/such/model", answering[1], max_retries=1, backoff=0.01, timeout=LOADING)
    score = judge(["I am furious."])[0]
    assert score.label is None
    # The server closes the connection after such an answer, and the second try may meet it half closed.
    assert score.reason.startswith("no answer after 2 tries: status 500"), score.reason
