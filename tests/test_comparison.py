"""Every number of the comparison's table, once more: plain loops, one reply at a time, no cache, no padding, no code of
the package but its word lists and the methods' definitions."""

from __future__ import annotations

import math
import statistics
import unicodedata

import pytest
import torch
from helpers import unchecked

import emotion_circuits as ec
from emotion_circuits.data.sev import Record
from emotion_circuits.errors import DataError, EmotionError
from emotion_circuits.evaluation import SideEffects, TradePoint, in_language, run_method
from emotion_circuits.evaluation.judges import Score
from emotion_circuits.evaluation.language import FUNCTION_WORDS
from emotion_circuits.evaluation.pareto import at_strength
from emotion_circuits.evaluation.plain_questions import QUESTIONS, answers
from emotion_circuits.evaluation.text_quality import _FUNCTION_WORDS

EMOTIONS, LAYER, N_TOKENS = ("anger", "fear"), 3, 10
LENGTH = "Keep the reply to at most two sentences."
REQUESTS = ("Say what a map is for.", "Describe how bread is made.")
ASKED = (("What colour is the sky?", ("blue", "the")), ("Who am I?", ("I", "you")))
EVENTS = {"positive": "The sun came in all morning.", "neutral": "A bus went by.", "negative": "The window broke."}
DATA = ec.SEV(
    tuple(
        Record(f"item_{i}", f"theme_{i}", text, EVENTS)
        for i, text in enumerate(("I moved my desk to the window.", "I waited for the bus at the station."))
    )
)


class Mixed:
    """A judge whose answers look random and do not depend on the package: by a sum over the text."""

    name = "mixed"

    def __call__(self, texts):
        return [Score(verdict(text)) for text in texts]

    def match(self, texts, emotions):
        return self(texts)


def verdict(text: str) -> str | None:
    return ("anger", None, "fear", "neutral", "anger", "fear")[sum(map(ord, text)) % 6]


@pytest.fixture(scope="module")
def demo() -> ec.HookedModel:
    return ec.HookedModel.demo()


@pytest.fixture(scope="module")
def pushes(demo) -> dict[str, torch.Tensor]:
    """What steering adds to the residual after one layer, by emotion."""
    generator = torch.Generator().manual_seed(3)
    return {emotion: 25 * torch.randn(demo.dims.d_model, generator=generator) for emotion in EMOTIONS}


@pytest.fixture(scope="module")
def comparison(demo, pushes) -> ec.Comparison:
    def contrast(emotion: str) -> ec.Contrast:
        held = torch.zeros(demo.dims.n_layers, demo.dims.d_model)
        held[LAYER] = pushes[emotion]
        return ec.Contrast(emotion, "emotions", ec.Activations(resid_post=held))

    methods = [
        ec.Unmodulated(), ec.Prompting(), ec.ContrastSteering({e: contrast(e) for e in EMOTIONS}, (LAYER,), 0.5),
    ]  # fmt: skip
    config = ec.GenerationConfig(max_new_tokens=N_TOKENS)
    probe = ec.SideEffectTest(demo, EMOTIONS, config, requests=REQUESTS, questions=ASKED)
    return ec.compare(demo, methods, DATA, Mixed(), EMOTIONS, config, side_effects=probe)


class Naive:
    """The second implementation."""

    def __init__(self, model: ec.HookedModel, pushes: dict[str, torch.Tensor]) -> None:
        self.hf, self.tokenizer, self.pushes = model.hf, model.tokenizer, pushes
        self.items = [
            (record.skeleton_id, f"{record.scenario}\n{record.event[valence]}")
            for record in DATA.records for valence in ("positive", "neutral", "negative")
        ]  # fmt: skip

    def ids(self, said: str, emotion: str | None) -> list[int]:
        system = LENGTH if emotion is None else f"Always reply in {emotion}.\n{LENGTH}"
        chat = [{"role": "system", "content": system}, {"role": "user", "content": said}]
        return self.tokenizer.apply_chat_template(chat, tokenize=True, add_generation_prompt=True)["input_ids"]

    def logits(self, ids: list[int], n_prompt: int, push: torch.Tensor | None) -> torch.Tensor:
        """Logits at every position; the push is added from the last prompt token on."""

        def hook(module, args, output):
            new = output.clone()
            new[:, n_prompt - 1 :] += push
            return new

        handle = self.hf.model.layers[LAYER].register_forward_hook(hook) if push is not None else None
        with torch.no_grad():
            result = self.hf(torch.tensor([ids])).logits[0]
        if handle:
            handle.remove()
        return result.double()

    def way(self, method: str, said: str, emotion: str) -> tuple[list[int], torch.Tensor | None]:
        """A method's prompt and push."""
        push = 0.5 * self.pushes[emotion] if method == "steering" else None
        return self.ids(said, emotion if method == "prompting" else None), push

    def reply(self, method: str, said: str, emotion: str) -> list[int]:
        prompt, push = self.way(method, said, emotion)
        new: list[int] = []
        while len(new) < N_TOKENS and 2 not in new:
            new.append(int(self.logits(prompt + new, len(prompt), push)[-1].argmax()))
        return new

    def text(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    def rows(self, method: str) -> list[dict]:
        return [
            {"item": item, "said": said, "emotion": emotion, "tokens": tokens, "text": self.text(tokens)}
            for emotion in EMOTIONS for item, said in self.items for tokens in [self.reply(method, said, emotion)]
        ]  # fmt: skip

    # The columns

    def accuracy(self, rows: list[dict]) -> dict:
        labels = [verdict(row["text"]) for row in rows]
        hits = [int(label == row["emotion"]) for label, row in zip(labels, rows, strict=True) if label]
        clusters = [row["item"] for label, row in zip(labels, rows, strict=True) if label]
        low, high = wilson(sum(hits), len(hits))
        cluster_low, cluster_high = bootstrap(hits, clusters)
        return {
            "n": len(rows), "unscored": labels.count(None), "accuracy": sum(hits) / len(hits), "low": low, "high": high,
            "cluster_low": cluster_low, "cluster_high": cluster_high, "at_least": sum(hits) / len(rows),
            "neutral": labels.count("neutral") / len(rows),
        }  # fmt: skip

    def paired(self, rows: list[dict], others: list[dict]) -> dict:
        only, other_only, n = 0, 0, 0
        for mine, theirs in zip(rows, others, strict=True):
            a, b = verdict(mine["text"]), verdict(theirs["text"])
            if a and b:
                n += 1
                only += a == mine["emotion"] and b != mine["emotion"]
                other_only += b == mine["emotion"] and a != mine["emotion"]
        # Two-sided binomial: everything at most as likely as what was seen.
        chances = [math.comb(only + other_only, i) for i in range(only + other_only + 1)]
        return {"p": sum(c for c in chances if c <= chances[only]) / sum(chances), "n_paired": n}

    def fluency(self, rows: list[dict]) -> dict:
        losses = []
        for row in rows:
            prompt = self.ids(row["said"], row["emotion"])
            scores = self.logits(prompt + row["tokens"], len(prompt), None)
            for k, token in enumerate(row["tokens"]):
                line = scores[len(prompt) + k - 1]
                losses.append(float(torch.logsumexp(line, 0) - line[token]))
        words = [words_in(row["text"]) for row in rows]
        languages = [english(w) for w in words]
        return {
            "perplexity": math.exp(statistics.fmean(losses)),
            "distinct_1": statistics.fmean(len(set(w)) / len(w) for w in words),
            "distinct_2": statistics.fmean(
                len({(w[i], w[i + 1]) for i in range(len(w) - 1)}) / (len(w) - 1) for w in words
            ),
            "repetition": statistics.fmean(
                sum(any(w[i] == w[j] for j in (i - 1, i - 2, i - 3) if j >= 0) for i in range(len(w))) / len(w)
                for w in words
            ),
            "n_words": statistics.fmean(map(len, words)),
            "on_topic": statistics.fmean(bool(stems(row["said"]) & stems(row["text"])) for row in rows),
            "in_language": languages.count(True) / (len(languages) - languages.count(None)),
            "language_unknown": languages.count(None),
        }

    def side_effects(self, method: str) -> dict:
        kls, sames, clusters = [], [], []
        for request in REQUESTS:
            said = f"I have a small request.\n{request}"
            tokens = self.reply("none", said, EMOTIONS[0])
            plain = self.ids(said, None)
            before = self.logits(plain + tokens, len(plain), None)
            for emotion in EMOTIONS:
                prompt, push = self.way(method, said, emotion)
                after = self.logits(prompt + tokens, len(prompt), push)
                kl, same = [], []
                for k in range(len(tokens)):
                    p = before[len(plain) - 1 + k].log_softmax(0)
                    q = after[len(prompt) - 1 + k].log_softmax(0)
                    kl.append(float((p.exp() * (p - q)).sum()))
                    same.append(int(p.argmax()) == int(q.argmax()))
                kls.append(statistics.fmean(kl))
                sames.append(statistics.fmean(same))
                clusters.append(request)
        right, asked = [], []
        for emotion in EMOTIONS:
            for question, accepted in ASKED:
                right.append(self.right(method, question, accepted, emotion))
                asked.append(question)
        before = [self.right("none", question, accepted, EMOTIONS[0]) for question, accepted in ASKED]
        kl_low, kl_high = bootstrap(kls, clusters)
        answered_low, answered_high = bootstrap(right, asked)
        return {
            "kl": statistics.fmean(kls), "kl_low": kl_low, "kl_high": kl_high, "same_token": statistics.fmean(sames),
            "n_requests": len(kls), "answered": statistics.fmean(right), "answered_low": answered_low,
            "answered_high": answered_high, "answered_change": statistics.fmean(right) - statistics.fmean(before),
            "n_questions": len(right),
        }  # fmt: skip

    def right(self, method: str, question: str, accepted: tuple[str, ...], emotion: str) -> int:
        words = self.text(self.reply(method, f"I have a short question.\n{question}", emotion)).lower()
        spaced = "".join(c if c.isalnum() else " " for c in words).split()
        return int(any(answer.lower() in spaced for answer in accepted))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The two p that solve (hits/n - p)^2 = z^2 p (1 - p) / n, by halving."""
    z, share = statistics.NormalDist().inv_cdf(0.975), hits / n

    def solve(inside: float, outside: float) -> float:
        for _ in range(200):
            p = (inside + outside) / 2
            inside, outside = (p, outside) if (share - p) ** 2 <= z * z * p * (1 - p) / n else (inside, p)
        return inside

    return solve(share, 0.0), solve(share, 1.0)


def bootstrap(values: list, clusters: list) -> tuple[float, float]:
    """2,000 draws of whole clusters with torch's generator at seed 0; the 2.5 and 97.5 % points."""
    names = list(dict.fromkeys(clusters))
    if len(names) < 2:
        return math.nan, math.nan
    drawn = torch.randint(len(names), (2000, len(names)), generator=torch.Generator().manual_seed(0)).tolist()
    members = [[v for v, c in zip(values, clusters, strict=True) if c == name] for name in names]
    means = sorted(statistics.fmean([v for i in draw for v in members[i]]) for draw in drawn)

    def at(share: float) -> float:
        place = share * (len(means) - 1)
        below, part = int(place), place - int(place)
        return means[below] + part * (means[min(below + 1, len(means) - 1)] - means[below])

    return at(0.025), at(0.975)


def words_in(text: str) -> list[str]:
    words, word = [], ""
    for i, c in enumerate(text.lower() + " "):
        inside = c == "'" and word and "'" not in word and i + 1 < len(text) and text[i + 1].isalpha()
        if c.isalpha() or inside:
            word += c
        elif word:
            words.append(word)
            word = ""
    return words


def stems(text: str) -> set[str]:
    found = set()
    for word in words_in(text):
        if word in _FUNCTION_WORDS or len(word) < 4:
            continue
        word = word[:-2] if word.endswith("'s") else word
        for ending in ("ing", "ed", "es", "s"):
            if word.endswith(ending) and len(word) >= 4 + len(ending):
                word = word[: len(word) - len(ending)]
                break
        found.add(word)
    return found


def english(words: list[str]) -> bool | None:
    counts = {language: sum(w in known for w in words) for language, known in FUNCTION_WORDS.items()}
    if sum(counts.values()) == 0:
        return None if len(words) <= 8 else False
    return all(counts["en"] >= count for count in counts.values())


def test_every_number_of_the_table(demo, pushes, comparison) -> None:
    naive = Naive(demo, pushes)
    rows = {method: naive.rows(method) for method in ("none", "prompting", "steering")}
    table = comparison.table("prompting").to_dict("records")
    assert [row["method"] for row in table] == list(rows)
    for row in table:
        method = row.pop("method")
        made = comparison.evaluations[method].replies
        assert made.texts == [r["text"] for r in rows[method]]
        expected = naive.accuracy(rows[method]) | naive.paired(rows[method], rows["prompting"])
        expected |= naive.fluency(rows[method]) | naive.side_effects(method)
        if method == "prompting":
            expected["p"] = math.nan
        assert row.keys() == expected.keys()
        for column, value in expected.items():
            assert row[column] == pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True), (method, column)
    # The test is about something: methods differ in every respect.
    for column in ("accuracy", "perplexity", "kl", "answered", "same_token", "distinct_2", "n_words"):
        assert len({row[column] for row in table}) > 1, column
    assert any(row["unscored"] for row in table)


@pytest.mark.parametrize("by", ["emotion", "valence", "theme"])
def test_every_number_by_group(demo, pushes, comparison, by) -> None:
    held = comparison.accuracy(by)
    frame = comparison.to_frame()
    for row in held.to_dict("records"):
        part = frame[frame["method"] == row["method"]]
        part = part if row[by] == "overall" else part[part[by] == row[by]]
        labels = [verdict(text) for text in part["text"]]
        hits = [int(a == b) for a, b in zip(labels, part["emotion"], strict=True) if a]
        low, high = wilson(sum(hits), len(hits)) if hits else (0.0, 1.0)
        assert (row["n"], row["unscored"]) == (len(part), labels.count(None))
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-6)
    assert held[by].nunique() == {"emotion": 3, "valence": 4, "theme": 3}[by]


def test_the_reference_and_the_settings(comparison) -> None:
    assert comparison.table()["p"].isna().tolist() == [True, False, False]
    with pytest.raises(DataError, match="no method 'magic' was compared; there are none, prompting, steering"):
        comparison.table("magic")
    held = comparison.provenance
    assert (held["model"], held["n_prompts"]) == ("demo", 6)
    assert (held["settings"]["judge"], held["settings"]["max_new_tokens"]) == ("mixed", N_TOKENS)
    assert held["settings"]["methods"] == ["none", "prompting", "steering"]
    from emotion_circuits import plots

    assert "Model: demo" in plots.caption(comparison)
    assert "judge mixed" in plots.caption(comparison)
    assert "steering" in repr(comparison)


def test_nothing_done_is_no_side_effect(comparison) -> None:
    none, steered = comparison.side_effects["none"], comparison.side_effects["steering"]
    assert (none.kl, none.same_token, none.answered_change) == (pytest.approx(0, abs=1e-6), 1.0, 0.0)
    assert steered.kl > 0.01
    assert isinstance(none, SideEffects)


# The trade-off


def point(method: str, accuracy: float, perplexity: float) -> TradePoint:
    return TradePoint(method, 1.0, 10, 0, accuracy, 0.0, 1.0, perplexity, perplexity)


def test_the_front_is_what_nothing_beats() -> None:
    from emotion_circuits.evaluation import TradeOff

    points = (
        point("a", 0.5, 1.0),
        point("b", 0.9, 2.0),
        point("c", 0.5, 1.5),
        point("d", 0.9, 2.0),
        point("e", math.nan, 1),
    )
    held = TradeOff(points, "a")
    assert [p.method for p in held.front] == ["a", "b", "d"]
    assert held.to_frame()["front"].tolist() == [True, True, False, True, False]


def test_strengths_are_multiples(demo, comparison) -> None:
    steering = ec.ContrastSteering({}, (LAYER,), {"anger": 0.5, "fear": 1.0})
    assert at_strength(steering, 2).strength == {"anger": 1.0, "fear": 2.0}
    with pytest.raises(DataError, match="method 'prompting' has no strength"):
        at_strength(ec.Prompting(), 2)
    push = ec.Contrast("anger", "emotions", ec.Activations(resid_post=torch.ones(6, demo.dims.d_model)))
    methods = [ec.ContrastSteering({"anger": push, "fear": push}, (LAYER,), 0.5)]
    config = ec.GenerationConfig(max_new_tokens=N_TOKENS)
    held = ec.trade_off(demo, comparison, methods, DATA, Mixed(), EMOTIONS, config, factors=(1, 3))
    assert [(p.method, p.strength) for p in held.points] == [
        ("none", 1.0), ("prompting", 1.0), ("steering", 1.0), ("steering", 3),
    ]  # fmt: skip
    assert held.points[1].perplexity_ratio == 1.0
    by_hand = ec.compare(demo, [at_strength(methods[0], 3)], DATA, Mixed(), EMOTIONS, config)
    assert held.points[3].perplexity == pytest.approx(by_hand.fluencies["steering"].perplexity)


# What was misspelt


def test_misspelt_emotions_and_questions_are_refused(demo) -> None:
    """A string is no list of emotions, and an unknown label or question must not become an accuracy of 0."""
    judge, methods, config = ec.LexiconJudge(), [ec.Prompting()], ec.GenerationConfig(max_new_tokens=2)
    one = r"emotions='anger' is one string, not a list of emotions; give \['anger'\]"
    asked: list[tuple] = [
        (ec.compare, demo, methods, DATA, judge),
        (ec.calibrate, demo, {"a": lambda e, s: ec.Prompting()}, DATA, judge),
    ]
    for call, *arguments in asked:
        with pytest.raises(EmotionError, match=one):
            unchecked(call, *arguments, "anger")
        with pytest.raises(EmotionError, match=r"the judge \(lexicon.*\) has no emotion 'angr'; it has anger"):
            call(*arguments, ("angr",))
    with pytest.raises(EmotionError, match=one):
        run_method(demo, ec.Prompting(), DATA.items, "anger", config)
    with pytest.raises(EmotionError, match=one):
        ec.SideEffectTest(demo, "anger", config)
    with pytest.raises(DataError, match="unknown question 'Classify'; the questions are classify, match"):
        unchecked(ec.compare, demo, methods, DATA, judge, question="Classify")
    with pytest.raises(DataError, match="unknown question 'matches'"):
        unchecked(ec.evaluate, ec.Replies(()), judge, "matches")


# Language and plain questions


SENTENCES = {
    "en": "The train leaves at nine, and I will be there with my sister.",
    "de": "Der Zug fährt um neun, und ich bin mit meiner Schwester da.",
    "fr": "Le train part à neuf heures et je serai là avec ma soeur.",
    "es": "El tren sale a las nueve y estoy allí con mi hermana.",
    "it": "Il treno parte alle nove e sono con la mia famiglia.",
    "pt": "O trem sai às nove e não estou com a minha irmã.",
    "nl": "De trein vertrekt om negen uur en ik ben er met mijn zus.",
    "zh": "火车九点出发,我和姐姐一起去。",
    "ar": "يغادر القطار في التاسعة وسأكون هناك مع أختي.",
    "ru": "Поезд уходит в девять, и я буду там с сестрой.",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_languages_are_told_apart(language: str) -> None:
    assert [name for name, text in SENTENCES.items() if in_language(text, language)] == [language]


def test_language_by_hand() -> None:
    assert in_language("Wow!") is None
    assert in_language("12 345 ...") is None
    assert in_language("kora lim tessa vorun pilat semmo darik lonta bevu") is False
    assert in_language("I like the 寿司 here") is True  # one word of another script
    with pytest.raises(DataError, match="cannot check for the language 'tlh'"):
        in_language("nuqneH", "tlh")
    assert unicodedata.name("寿").startswith("CJK")


def test_answers_are_whole_words() -> None:
    assert answers("It is PARIS, of course!", ("Paris",))
    assert not answers("A comparison.", ("Paris",))
    assert answers("that is fifty-four", ("54", "fifty four"))
    assert not answers("", ("12",))
    assert all(answers(f"I think it is {accepted[0]}.", accepted) for _, accepted in QUESTIONS)
    assert not any(answers(question, accepted) for question, accepted in QUESTIONS)
