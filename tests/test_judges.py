"""Judges: the lexicon's claims sentence by sentence, the others against planted answers and a misbehaving server."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from emotion_circuits.backends import OpenAIBackend
from emotion_circuits.endpoint import AnswerCache
from emotion_circuits.errors import DataError, EmotionError, ModelError
from emotion_circuits.evaluation.judges import (
    ClassifierJudge,
    Judge,
    LexiconJudge,
    LLMJudge,
    Score,
    SelfJudge,
    cohen_kappa,
    confusion,
    read_labelling_sheet,
    write_labelling_sheet,
)
from emotion_circuits.evaluation.judges.language import English
from emotion_circuits.evaluation.judges.phrases import PhraseBook
from emotion_circuits.evaluation.judges.tokens import tokenize
from emotion_circuits.pipeline import Settings
from emotion_circuits.types import EKMAN

PAPER = Path(__file__).resolve().parents[2] / "shared" / "paper" / "labeled_prompted_sev_half.jsonl"


@pytest.fixture(scope="module")
def judge() -> LexiconJudge:
    return LexiconJudge()


def label(judge: LexiconJudge, text: str) -> str | None:
    return judge([text])[0].label


SENTENCES = {
    "anger": [
        "I am absolutely furious that the road is closed again.",
        "How dare you speak to me like that!",
        "WHO ON EARTH DO YOU THINK YOU ARE?!",
        "I have had it up to here with your excuses.",
        "This is completely unacceptable and somebody will pay for it.",
        "My blood is boiling.",
    ],
    "sadness": [
        "This breaks my heart.",
        "I miss him every single day and the house is so empty without him.",
        "Tears run down my cheeks.",
        "I feel so lonely and lost.",
        "If only we had said goodbye.",
        "With a heavy heart I closed the door.",
    ],
    "happiness": [
        "I am so happy for you!",
        "What a wonderful day, I could sing!",
        "It made my day.",
        "I've never been so happy in my life.",
        "What a relief, everybody is well.",
        "I'm grinning from ear to ear.",
    ],
    "fear": [
        "That gives me the creeps.",
        "What if something goes wrong? My hands are shaking.",
        "I'm terrified of the dark.",
        "I dread the moment when the phone rings.",
        "Something bad will happen, I can feel it.",
        "Oh no, what if they find out?",
    ],
    "surprise": [
        "Nothing could have prepared me for this.",
        "I can't believe my eyes!",
        "It came completely out of nowhere.",
        "Wow, I never saw that coming!",
        "My jaw dropped.",
        "Who would have thought that?",
    ],
    "disgust": [
        "That is revolting.",
        "It makes my skin crawl.",
        "Yuck, there is mold on the cheese.",
        "I feel sick to my stomach when I look at it.",
        "Their behavior is beneath contempt.",
        "The stench was unbearable.",
    ],
    "neutral": [
        "The meeting is on Tuesday. I will bring the report.",
        "The train leaves at nine and arrives at noon.",
        "The recipe needs two eggs, some flour and a cup of milk.",
        "The customer was angry, so the clerk called the manager.",
        "I will call the plumber tomorrow and ask about the price.",
        "Thanks, I will let you know.",
    ],
}


@pytest.mark.parametrize(("wanted", "text"), [(e, text) for e, texts in SENTENCES.items() for text in texts])
def test_each_emotion_is_recognised(judge: LexiconJudge, wanted: str, text: str) -> None:
    score = judge([text])[0]
    assert score.label == wanted, score


@pytest.mark.parametrize(
    "text",
    [
        "I am neither happy nor sad about the new lamp.",
        "There is nothing to fear.",
        "I am not surprised.",
        "I am not so happy with it.",
        "There is no reason to be angry.",
        "He was never afraid of the dog.",
        "I do not feel sad today.",
        "It is far from disgusting.",
    ],
)
def test_negated_emotions_do_not_count(judge: LexiconJudge, text: str) -> None:
    named = {"happy": "happiness", "fear": "fear", "surpris": "surprise", "angry": "anger", "afraid": "fear"}
    score = judge([text])[0]
    for word, emotion in {**named, "sad": "sadness", "disgust": "disgust"}.items():
        if word in text:
            assert score.scores[emotion] == 0, score


@pytest.mark.parametrize(
    "text", ["I have never been so happy.", "I could not be happier.", "She gave us nothing but joy."]
)
def test_a_negator_that_affirms_is_not_a_negation(judge: LexiconJudge, text: str) -> None:
    assert label(judge, text) == "happiness"


def test_intensity_orders_the_evidence(judge: LexiconJudge) -> None:
    texts = ["I am a bit angry.", "I am angry.", "I am absolutely angry.", "I am ABSOLUTELY ANGRY!!!"]
    anger = [score.scores["anger"] for score in judge(texts)]
    assert anger == sorted(anger)
    assert len(set(anger)) == len(anger)


@pytest.mark.parametrize(
    "text",
    [
        "Ugh, how thrilling, another lecture.",
        "Oh great, just what I needed, one more bill.",
        "Lovely, another pointless speech.",
        "Ugh, what a fantastic achievement, you opened a door.",
    ],
)
def test_sarcastic_praise_is_no_happiness(judge: LexiconJudge, text: str) -> None:
    assert label(judge, text) in ("disgust", "anger")


def test_sincere_praise_stays_happiness(judge: LexiconJudge) -> None:
    assert label(judge, "How wonderful, that is a fantastic achievement!") == "happiness"


def test_a_lovely_surprise_is_both(judge: LexiconJudge) -> None:
    text = "What a lovely surprise!"
    assert label(judge, text) in ("surprise", "happiness")
    assert [s.label for s in judge.match([text] * 2, ["surprise", "happiness"])] == ["surprise", "happiness"]


@pytest.mark.parametrize("text", ["", "  \n", "?!?!", "12 345"])
def test_no_words_is_unscored(judge: LexiconJudge, text: str) -> None:
    score = judge([text])[0]
    assert score.label is None
    assert score.reason


@pytest.mark.parametrize(
    "text",
    [
        "xqz blorf wem tik zzab qui angry lor",
        "der hund ist sehr müde und ich bin auch müde",
        "je suis très contente de cette bonne nouvelle",
        "happy the of and garden to the the is was happy of and my",
        "table green angry window seven paper river furious stone cloud lamp bread",
    ],
)
def test_gibberish_is_unscored(judge: LexiconJudge, text: str) -> None:
    score = judge([text])[0]
    assert score.label is None
    assert score.reason.startswith("not "), score


@pytest.mark.parametrize("word", ["furious", "sad", "happy", "terrified", "wow", "disgusting"])
def test_degenerate_repetition_is_unscored(judge: LexiconJudge, word: str) -> None:
    texts = [f"{word} " * 12, f"I am {word} " * 5, f"I am {word}. " * 9, f"so {word} and " * 6]
    assert [s.label for s in judge(texts)] == [None] * 4
    assert all("degenerate" in s.reason or "over and over" in s.reason for s in judge(texts))


def test_a_sentence_said_twice_is_still_read(judge: LexiconJudge) -> None:
    assert label(judge, "I am so sad that the shop is closed. I am so sad that the shop is closed.") == "sadness"


def test_a_tie_is_unscored_and_says_so() -> None:
    score = LexiconJudge({"up": ["rising"], "down": ["falling"]})(
        ["In the morning the water was rising and then it was falling."]
    )[0]
    assert score.label is None
    assert "tie between" in score.reason


def test_own_label_set() -> None:
    judge = LexiconJudge({"calm": {"at ease": 2.5, "(quiet|still) as a ~ lake": 3.0}, "boredom": ["bor*", "[so] dull"]})
    texts = ["I feel at ease here.", "It was so boring.", "As quiet as a mouse.", "Quiet as a cold mountain lake."]
    assert [s.label for s in judge(texts)] == ["calm", "boredom", "neutral", "calm"]


def test_match_and_its_errors(judge: LexiconJudge) -> None:
    text = "I am furious."
    assert [s.label for s in judge.match([text, text, ""], ["anger", "fear", "fear"])] == ["anger", "anger", None]
    with pytest.raises(EmotionError, match=r"'envy' but knows only anger, .* build the judge"):
        judge.match([text], ["envy"])
    with pytest.raises(ValueError, match="1 texts and 2 emotions"):
        judge.match([text], ["anger", "fear"])
    with pytest.raises(TypeError, match=r"give \[text\]"):
        judge(text)
    with pytest.raises(ValueError, match="brackets"):
        LexiconJudge({"a": ["(b|c"]})
    with pytest.raises(ValueError, match="no words at all"):
        LexiconJudge({"a": ["[b]"]})


def test_all_judges_are_judges(judge: LexiconJudge) -> None:
    assert isinstance(judge, Judge)
    assert issubclass(LLMJudge, object)
    assert isinstance(LLMJudge("m", base_url="http://127.0.0.1:1/v1"), Judge)


def test_tokens_and_phrases_by_hand() -> None:
    tokens = tokenize("I can't BELIEVE it… Sooooo well-made, isn't it?! 😡")
    words = "i can not believe it so well made is not it 😡".split()
    assert tokens.words == words
    assert [w for w, loud in zip(words, tokens.loud, strict=True) if loud] == ["believe", "so"]
    assert tokens.sentence == [0] * 5 + [1] * 6 + [2]
    book = PhraseBook([("can not (believe|see) [it]", "a", 2.0), ("well ~ 😡", "b", 1.0), ("believe", "c", 3.0)])
    hits = book.find(words, [0] * len(words))
    assert [(h.start, h.end, h.weights) for h in hits] == [(1, 5, {"a": 2})]


def test_inflected_words_are_known() -> None:
    english = English()
    assert all(map(english.known, "walking stopped happiest unfriendly babies quickly makers".split()))
    assert not any(map(english.known, "blorf zzab wem".split()))


@pytest.mark.skipif(not PAPER.exists(), reason="the reference study's replies (shared/paper) are not on this machine")
def test_agreement_with_the_reference_study(judge: LexiconJudge) -> None:
    rows = [row for row in map(json.loads, PAPER.read_text("utf-8").splitlines()) if row["match"] == 1]
    right, total = Counter(), Counter(row["emotion"] for row in rows)
    for row, score in zip(rows, judge([row["gen_text"] for row in rows]), strict=True):
        right[row["emotion"]] += score.label == row["emotion"]
    assert sum(right.values()) / sum(total.values()) > 0.85
    assert all(right[e] / total[e] > 0.75 for e in EKMAN), right


def test_import_stays_cheap() -> None:
    code = (
        "import sys, emotion_circuits.evaluation.judges as j; from emotion_circuits.evaluation.judges import "
        "LexiconJudge, LLMJudge, SelfJudge, ClassifierJudge; "
        "print(*[m for m in ('torch', 'transformers', 'openai', 'pandas') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[1]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert found.stdout.split() == []


# --- LLMJudge ---


class Endpoint:
    """A real server on this machine that plays a list of behaviours, one per request, then behaves."""

    def __init__(self, *script: str) -> None:
        self.script, self.requests, self.lock = list(script), [], threading.Lock()
        self.in_flight, self.most_in_flight = 0, 0
        self.together, self.closed = threading.Barrier(4), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.requests.append((body, {k.lower(): v for k, v in self.headers.items()}))
                    behaviour = outer.script.pop(0) if outer.script else "good"
                    outer.in_flight += 1
                    outer.most_in_flight = max(outer.most_in_flight, outer.in_flight)
                if behaviour == "wait for three others":
                    with contextlib.suppress(threading.BrokenBarrierError):  # they do not come
                        outer.together.wait(20)
                        time.sleep(0.2)  # for one more than may come
                with outer.lock:
                    outer.in_flight -= 1  # before the answer, which makes the client send the next request
                with contextlib.suppress(ConnectionError):  # the client may have given up
                    outer.play(self, behaviour, body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def play(self, handler: BaseHTTPRequestHandler, behaviour: str, body: dict) -> None:
        if behaviour == "timeout":
            self.closed.wait(60)
            return
        if behaviour == "half":
            handler.send_response(200)
            handler.send_header("Content-Length", "500")
            handler.end_headers()
            handler.wfile.write(b'{"id": "x", "choices": [{"mess')
            return
        status = int(behaviour) if behaviour.isdigit() else 200
        payload = json.dumps(self.completion(self.content(behaviour, body))).encode()
        if behaviour == "broken json":
            payload = b'{"choices": [{"message": '
        if status != 200:
            payload = b'{"error": {"message": "no, your key sk-secret is bad"}}'
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(payload)))
        if status == 429:
            handler.send_header("Retry-After", "0.2")
        handler.end_headers()
        handler.wfile.write(payload)

    @staticmethod
    def content(behaviour: str, body: dict) -> str:
        question, text = body["messages"][-1]["content"].rsplit("Text: ", 1)
        if behaviour == "chatty":
            return "I would say that this is anger."
        if behaviour == "other label":
            return '{"label": "envy", "reason": "because"}'
        if behaviour == "null match":
            return '{"match": null}'
        found = "anger" if "furious" in json.loads(text) else "neutral"
        if "Does this text express" in question:
            return json.dumps({"match": f"express {found}" in question, "reason": "r"})
        return "```json\n" + json.dumps({"label": found, "reason": "r"}) + "\n```"

    @staticmethod
    def completion(content: str) -> dict:
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}

    def close(self) -> None:
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch):
    made = []
    monkeypatch.setenv("JUDGE_TEST_KEY", "sk-secret")

    def make(*script: str, **options) -> tuple[Endpoint, LLMJudge]:
        server = Endpoint(*script)
        made.append(server)
        options = {"backoff": 0.02, "timeout": 10.0, "max_retries": 3, "api_key_env": "JUDGE_TEST_KEY", **options}
        return server, LLMJudge("m", base_url=server.url, **options)

    yield make
    for server in made:
        server.close()


def test_llm_judge_asks_both_questions(endpoint) -> None:
    server, judge = endpoint()
    texts = ["I am furious", "The cup is blue", "I am furious", " "]
    assert [s.label for s in judge(texts)] == ["anger", "neutral", "anger", None]
    assert len(server.requests) == 2  # equal texts are sent once, empty ones never
    body, headers = server.requests[0]
    assert headers["authorization"] == "Bearer sk-secret"
    assert body["model"] == "m"
    assert body["response_format"] == {"type": "json_object"}
    assert [s.label for s in judge.match(texts[:2], "anger")] == ["anger", "neutral"]


@pytest.mark.parametrize("trouble", ["429", "500", "503", "timeout", "half", "broken json"])
def test_llm_judge_recovers(endpoint, trouble: str) -> None:
    server, judge = endpoint(trouble, timeout=1.0 if trouble == "timeout" else 10.0)
    start = time.monotonic()
    assert judge(["I am furious"])[0].label == "anger"
    assert len(server.requests) == 2 or trouble == "timeout"
    if trouble == "429":
        assert time.monotonic() - start > 0.2  # waits as long as the server asks


@pytest.mark.parametrize("trouble", ["500", "half", "broken json", "429", "timeout"])
def test_llm_judge_gives_up_as_unscored(endpoint, trouble: str) -> None:
    server, judge = endpoint(*[trouble] * 3, max_retries=2, timeout=1.0 if trouble == "timeout" else 10.0)
    score = judge.match(["I am furious"], ["anger"])[0]
    assert score.label is None
    assert "no answer after 3 tries" in score.reason
    assert len(server.requests) == 3
    assert judge.match(["I am furious"], ["anger"])[0].label == "anger"  # a failure is not remembered


def test_every_kind_of_trouble_is_named_once(endpoint) -> None:
    _, judge = endpoint("500", "broken json", "500", max_retries=2)
    reason = judge(["I am furious"])[0].reason
    assert reason == "no answer after 3 tries: status 500, then unreadable response (JSONDecodeError)"


def test_a_server_with_every_trouble_loses_nothing(endpoint) -> None:
    _, judge = endpoint(*["timeout", "429", "500", "broken json", "half", "503"] * 2, timeout=1.0, max_retries=9)
    texts = [f"I am furious, number {i}" if i % 3 else f"The cup is blue, number {i}" for i in range(18)]
    assert [s.label for s in judge(texts)] == ["anger" if i % 3 else "neutral" for i in range(18)]


@pytest.mark.parametrize("trouble", ["chatty", "other label", "400"])
def test_an_unreadable_answer_is_unscored(endpoint, trouble: str) -> None:
    server, judge = endpoint(trouble)
    score = judge(["I am furious"])[0]
    assert (score.label, len(server.requests)) == (None, 1)
    assert score.reason
    assert "sk-secret" not in score.reason  # the server repeats the key, we do not


def test_an_undecided_match_is_not_a_no(endpoint) -> None:
    _, judge = endpoint("null match")
    assert judge.match(["I am furious"], ["anger"])[0].label is None


def test_a_refused_key_stops_the_run_and_stays_secret(endpoint) -> None:
    _, judge = endpoint("401", "401")
    with pytest.raises(ModelError, match=r"http://127\.0\.0\.1:\d+/v1\S* refused.*401.*check base_url") as caught:
        judge(["I am furious", "The cup is blue"])
    assert "sk-secret" not in str(caught.value) + repr(vars(judge))


def test_cache_survives_and_ignores_half_a_line(endpoint, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    server, judge = endpoint(cache=path)
    texts = [f"I am furious, number {i}" for i in range(20)]
    judge(texts)
    whole = path.read_bytes()
    path.write_bytes(whole[:-25])  # killed while writing
    _, again = endpoint(cache=path)
    again.base_url = judge.base_url
    assert again.estimate(texts).requests == 1
    assert [s.label for s in again(texts)] == ["anger"] * 20
    assert len(server.requests) == 21
    assert LLMJudge("m", base_url=judge.base_url, cache=path).estimate(texts).requests == 0
    assert "sk-secret" not in path.read_text("utf-8")


def test_a_cached_answer_that_was_changed_is_asked_for_again(endpoint, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    server, judge = endpoint(cache=path)
    texts = ["I am furious", "The cup is blue"]
    scores = judge(texts)
    path.write_text(path.read_text("utf-8").replace("anger", "angel", 1), "utf-8")
    again = LLMJudge("m", base_url=judge.base_url, cache=path, api_key_env="JUDGE_TEST_KEY")
    assert again.estimate(texts).requests == 1
    assert again(texts) == scores
    assert len(server.requests) == 3
    assert LLMJudge("m", base_url=judge.base_url, cache=path).estimate(texts).requests == 0


def test_a_cache_without_checksums_is_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    cache = AnswerCache(path)
    cache.add("a", '{"label": "anger"}')
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"key": "b", "answer": "written by an earlier version"}) + "\n")
    assert AnswerCache(path).answers == {"a": '{"label": "anger"}'}


@pytest.mark.parametrize(
    "url",
    ["http://user:hunter2@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?api_key=hunter2", "http://127.0.0.1:9/v1#hunter2",
     "http://user:hun/ter2@127.0.0.1:9/v1", "user:hunter2@127.0.0.1:9/v1"],
)  # fmt: skip
def test_an_address_with_a_secret_is_refused_and_not_repeated(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_TEST_KEY", "sk-secret")
    for made in (LLMJudge, OpenAIBackend):
        with pytest.raises(ModelError, match=r"base_url must be a plain address.*JUDGE_TEST_KEY") as caught:
            made("m", base_url=url, api_key_env="JUDGE_TEST_KEY")
        assert not re.search("hun|ter2", str(caught.value))
    monkeypatch.setenv("OPENAI_BASE_URL", url)  # the openai client reads it where none is given
    with pytest.raises(ModelError, match="OPENAI_BASE_URL must be a plain address"):
        LLMJudge("m", api_key_env="JUDGE_TEST_KEY", max_retries=0)(["text"])
    for name in ("judge_url", "base_url"):
        with pytest.raises(ModelError, match=f"{name.replace('_', '-')} must be a plain address.*OPENAI_API_KEY"):
            Settings(**{name: url})


def test_estimate_counts_before_sending() -> None:
    judge = LLMJudge("m", base_url="http://127.0.0.1:9/v1")
    estimate = judge.estimate(["a b c", "a b c", "", "d"], price_input=1.0, price_output=2.0)
    assert (estimate.requests, estimate.cached) == (2, 1)
    assert estimate.cost == pytest.approx((estimate.input_tokens + 2 * estimate.output_tokens) / 1e6)
    assert judge.estimate(["a"]).cost is None
    assert judge.estimate(["a", "a", "b"], emotions=["anger", "fear", "fear"]).requests == 3
    with pytest.raises(EmotionError, match="'envy' but knows only anger"):
        judge.estimate(["a"], emotions="envy")


def test_requests_run_side_by_side_but_not_too_fast(endpoint) -> None:
    server, judge = endpoint(*["wait for three others"] * 8, timeout=60.0, concurrency=4)
    assert {s.label for s in judge([f"I am furious {i}" for i in range(8)])} == {"anger"}
    assert server.most_in_flight == 4
    _, slow = endpoint(requests_per_minute=600.0)
    start = time.monotonic()
    slow([f"I am furious {i}" for i in range(6)])
    assert time.monotonic() - start > 0.45


def test_llm_judge_works_inside_a_running_loop(endpoint) -> None:
    import asyncio

    _, judge = endpoint()

    async def notebook() -> list[Score]:
        return judge(["I am furious"])

    assert asyncio.run(notebook())[0].label == "anger"


def test_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ModelError, match="NO_SUCH_KEY is empty: set it"):
        LLMJudge("m", api_key_env="NO_SUCH_KEY")(["text"])


# --- ClassifierJudge and SelfJudge: tiny models ---


def make_tokenizer(words: list[str], *, characters: bool = False):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *dict.fromkeys(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Split(Regex("."), "isolated") if characters else pre_tokenizers.Whitespace()
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def make_classifier(labels: list[str], words: list[str], problem: str | None = None):
    """A classifier with a planted truth: the n-th word votes for the n-th label."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=len(words) + 2, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)}, problem_type=problem,
    )  # fmt: skip
    model = BertForSequenceClassification(config)

    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: object) -> SimpleNamespace:
        votes = torch.stack([(input_ids == i + 2).sum(-1) for i in range(len(words))], -1)[:, : len(labels)]
        return SimpleNamespace(logits=4.0 * votes - (2.0 if problem else 0.0))

    model.forward = forward
    return model


WORDS = ["rage", "glee", "meh", "ewww"]


def test_classifier_maps_labels_by_name_and_batches() -> None:
    model = make_classifier(["Anger", "joy", "neutral", "disgust"], WORDS)
    judge = ClassifierJudge(model, make_tokenizer(WORDS), batch_size=2)
    assert judge.labels == ("anger", "happiness", "disgust")
    assert isinstance(judge, Judge)
    texts = ["glee", "so much rage rage", "", "meh", "rage or glee", "ewww"]
    assert [s.label for s in judge(texts)] == ["happiness", "anger", None, "neutral", None, "disgust"]
    assert [s.label for s in judge.match(texts, "anger")] == [
        "happiness",
        "anger",
        None,
        "neutral",
        "neutral",
        "disgust",
    ]
    with pytest.raises(EmotionError, match="'fear' but knows only anger, happiness, disgust"):
        judge.match(["rage"], ["fear"])


def test_a_classifier_is_loaded_from_its_folder(tmp_path: Path) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    labels, tokenizer = ["anger", "joy", "neutral"], make_tokenizer(WORDS)
    config = BertConfig(
        vocab_size=len(WORDS) + 2, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    judge = ClassifierJudge(str(tmp_path), threshold=0.0, device="cpu")
    assert judge.name == f"classifier:{tmp_path}"
    texts = ["rage", "glee glee", "meh ewww rage glee", "rage meh"]
    for text, score in zip(texts, judge(texts), strict=True):
        with torch.no_grad():
            alone = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1).tolist()
        assert score.scores == pytest.approx(dict(zip(["anger", "happiness", "neutral"], alone, strict=True)), abs=1e-5)
    with pytest.raises(ModelError, match="cannot be loaded"):
        ClassifierJudge(str(tmp_path / "nothing"))


def test_classifier_label_map_and_its_errors() -> None:
    tokenizer = make_tokenizer(WORDS)
    model = make_classifier(["LABEL_0", "LABEL_1", "neutral"], WORDS)
    with pytest.raises(ModelError, match=r"no emotion is known .*\['LABEL_0', 'LABEL_1'\].*label_map="):
        ClassifierJudge(model, tokenizer)
    with pytest.raises(ModelError, match=r"label_map names \['LABEL_7'\]"):
        ClassifierJudge(model, tokenizer, {"LABEL_7": "anger"})
    judge = ClassifierJudge(model, tokenizer, {"LABEL_0": "envy", "LABEL_1": None})
    assert judge.labels == ("envy",)
    assert [s.label for s in judge(["rage", "meh"])] == ["envy", "neutral"]
    with pytest.raises(ModelError, match="without a tokenizer"):
        ClassifierJudge(model)


def test_multi_label_classifier_takes_the_strongest_of_merged_labels() -> None:
    model = make_classifier(["annoyance", "anger", "joy"], WORDS, "multi_label_classification")
    judge = ClassifierJudge(model, make_tokenizer(WORDS))
    scores = judge(["rage", "other", "ewww"])
    assert [s.label for s in scores] == ["anger", "neutral", "neutral"]
    assert scores[0].scores["anger"] == pytest.approx(0.8808, abs=1e-3)


def make_causal(vocab_size: int, context: int = 512):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=context, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def causal() -> SimpleNamespace:
    tokenizer = make_tokenizer([*"abcdefghijklmnopqrstuvwxyzATWD :.,?\n"], characters=True)
    return SimpleNamespace(hf=make_causal(len(tokenizer)), tokenizer=tokenizer)


def naive_log_probability(model: SimpleNamespace, prompt: str, answer: str) -> float:
    """One sequence, no padding, teacher forced: the definition."""
    import torch

    start = model.tokenizer(prompt)["input_ids"]
    tail = model.tokenizer(answer)["input_ids"]
    with torch.no_grad():
        logs = model.hf(torch.tensor([start + tail])).logits[0].log_softmax(-1)
    return sum(logs[len(start) + k - 1, token].item() for k, token in enumerate(tail))


def test_self_judge_equals_the_definition(causal: SimpleNamespace) -> None:
    import math

    prompt = "T: {text} {answers}? "
    judge = SelfJudge(causal, batch_size=5, classify_prompt=prompt)
    texts = ["a cat", "the very long way to the sea and back", "  ", "fine"]
    answers = (*EKMAN, "neutral")
    for text, score in zip(texts, judge(texts), strict=True):
        if not text.strip():
            assert score.label is None
            continue
        filled = prompt.format(text=text, answers=", ".join(answers)) + "Answer:"
        logs = {a: naive_log_probability(causal, filled, f" {a}") for a in answers}
        total = math.log(sum(map(math.exp, logs.values())))
        assert score.scores == pytest.approx({a: math.exp(x - total) for a, x in logs.items()}, rel=1e-3)
        assert score.label == max(logs, key=lambda a: logs[a])


def test_self_judge_match_unscored_and_errors(causal: SimpleNamespace) -> None:
    judge = SelfJudge(causal)
    assert isinstance(judge, Judge)
    scores = judge.match(["a cat", ""], ["anger", "fear"])
    assert scores[0].label in ("anger", "neutral")
    assert (scores[0].scores["anger"] > 0.5) == (scores[0].label == "anger")
    assert scores[1].label is None
    assert "too long" in judge(["word " * 200])[0].reason
    with pytest.raises(ModelError, match="writes up, down, neutral with the same tokens"):
        SelfJudge(SimpleNamespace(hf=causal.hf, tokenizer=make_tokenizer(["anger"])), labels=["up", "down", "anger"])(
            ["a"]
        )
    with pytest.raises(TypeError, match="give a HookedModel"):
        SelfJudge("a name")


# --- agreement ---


def test_confusion_counts_unscored() -> None:
    table = confusion(["anger", "fear", None, "neutral"], [Score("anger"), Score("anger"), Score("fear"), Score(None)])
    assert list(table.index) == ["anger", "fear", "neutral", "unscored"]
    assert table.loc["anger", "anger"] == table.loc["fear", "anger"] == table.loc["unscored", "fear"] == 1
    assert table.to_numpy().sum() == 4
    with pytest.raises(DataError, match="1 labels against 2"):
        confusion(["anger"], ["anger", "fear"])


def test_kappa_by_hand() -> None:
    # The textbook table 20 5 / 10 15: p_o = 0.7, p_e = 0.5, kappa = 0.4.
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    kappa = cohen_kappa([*first, None], [*second, "yes"])
    assert kappa.value == pytest.approx(0.4)
    assert (kappa.agreement, kappa.n, kappa.unscored) == (pytest.approx(0.7), 50, 1)
    assert 0.1 < kappa.low < 0.2
    assert 0.6 < kappa.high < 0.7
    clustered = cohen_kappa(first, second, groups=[i // 10 for i in range(50)])
    assert clustered.high - clustered.low != pytest.approx(kappa.high - kappa.low)
    with pytest.raises(DataError, match="none of 1 items is scored by both"):
        cohen_kappa(["yes"], [None])


def test_labelling_sheet_round_trip(tmp_path: Path) -> None:
    texts = ["=SUM(A1)", 'He said "no",\nthen left.', "Grüße 😡", "plain"]
    path = write_labelling_sheet(tmp_path / "sheet.csv", texts)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    answers = {"0": "Anger ", "1": "neutral", "2": "?", "3": ""}
    for row in rows:
        row["label"] = answers[row["item"]]
    save(path, rows)
    assert [s.label for s in read_labelling_sheet(path, texts)] == ["anger", "neutral", None, None]
    with pytest.raises(DataError, match="exists and may hold labels"):
        write_labelling_sheet(path, texts)
    with pytest.raises(DataError, match="belongs to another text"):
        read_labelling_sheet(path, ["other", *texts[1:]])
    save(path, rows[1:])
    with pytest.raises(DataError, match="lacks 1 of 4 items"):
        read_labelling_sheet(path, texts)
    save(path, [*rows, rows[0]])
    with pytest.raises(DataError, match="stands there twice"):
        read_labelling_sheet(path, texts)
    rows[0]["label"] = "envy"
    save(path, rows)
    with pytest.raises(DataError, match="'envy', expected anger"):
        read_labelling_sheet(path, texts)


def save(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
