"""Directions and contrasts against a second implementation, written from method.md, stages 2, 5 and 6."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers import EMOTIONS, TEXTS, ids_of, instructed, naive_record, naive_run, unchecked

import emotion_circuits as ec
from emotion_circuits import artefacts
from emotion_circuits.directions import ConditionMeans
from emotion_circuits.directions.statistics import GroupStatistics, complete_groups
from emotion_circuits.errors import ArtefactError, DataError, EmotionError, NodeError


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(a.double(), b.double(), atol=tolerance, rtol=tolerance)


def by_group(asked: list[ec.Prompt], values: torch.Tensor) -> torch.Tensor:
    """``[layer, sample, unit]`` to ``[group, emotion, layer, unit]``, complete groups with one sample each."""
    groups = dict.fromkeys(p.group for p in asked)
    place = {(p.group, p.emotion): i for i, p in enumerate(asked)}
    return torch.stack([torch.stack([values[:, place[g, e]] for e in EMOTIONS]) for g in groups])


def naive_difference(x: torch.Tensor) -> torch.Tensor:
    """Within each group subtract its mean, average over groups, subtract the mean over emotions."""
    within = torch.stack([group - group.mean(0) for group in x.double()])
    average = within.mean(0)
    return average - average.mean(0)


@pytest.fixture(scope="module")
def asked() -> list[ec.Prompt]:
    return instructed(4)


@pytest.fixture(scope="module")
def naive(qwen, asked) -> dict[str, torch.Tensor]:
    return {site: by_group(asked, naive_record(qwen, asked, site)) for site in ("resid_mid", "resid_post")}


@pytest.fixture(scope="module")
def fitted(qwen, asked) -> ec.EmotionDirections:
    return ec.fit_directions(qwen, asked)


# Directions


def test_directions_are_the_naive_ones(fitted, naive) -> None:
    assert fitted.emotions == EMOTIONS
    assert fitted.n_groups == 8
    for slot, site in enumerate(("resid_mid", "resid_post")):
        difference = naive_difference(naive[site])  # emotion layer unit
        norms = difference.norm(dim=-1)
        close(fitted.norms[slot].T, norms)
        for e, emotion in enumerate(EMOTIONS):
            close(fitted.of(emotion, site), difference[e] / norms[e][:, None])
        close(fitted.vectors[slot].norm(dim=-1), torch.ones(3, 3))
        rms = naive[site].square().mean(-1).sqrt()
        close(fitted.sigma[slot], rms.mean(dim=(0, 1)))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_streaming_is_batch(qwen, asked, fitted, batch_size: int) -> None:
    streamed = ec.fit_directions(qwen, asked, batch_size=batch_size)
    shuffled = [asked[i] for i in torch.randperm(len(asked), generator=torch.Generator().manual_seed(1)).tolist()]
    for other in (streamed, ec.fit_directions(qwen, shuffled, EMOTIONS, batch_size=batch_size)):
        close(other.vectors, fitted.vectors)
        close(other.sigma, fitted.sigma)
        close(other.variance_group, fitted.variance_group)
    close(streamed.split_half, fitted.split_half, 1e-4)


def test_incomplete_groups_are_dropped(qwen, asked, fitted) -> None:
    extra = instructed(5)[len(asked) :]
    assert len(extra) == 6
    neutral = [replace(p, emotion=None) for p in asked[:2]]
    other = [replace(p, emotion="disgust") for p in asked[:2]]
    mixed = [*neutral, *asked, *extra[:2], *extra[4:], *other]
    assert [mixed[i] for i in complete_groups(mixed, EMOTIONS)] == asked
    again = ec.fit_directions(qwen, mixed, EMOTIONS)
    assert again.n_groups == 8
    close(again.vectors, fitted.vectors)


def test_the_order_of_emotions_is_the_callers(qwen, asked, fitted) -> None:
    again = ec.fit_directions(qwen, asked, ("fear", "anger", "sadness"))
    close(again.of("anger"), fitted.of("anger"))
    two = ec.fit_directions(qwen, asked, ("anger", "fear"))
    close(two.of("anger"), -two.of("fear"))  # with two emotions there is one axis


def test_variance_shares(fitted, naive) -> None:
    for slot, site in enumerate(("resid_mid", "resid_post")):
        x = naive[site].double()  # group emotion layer unit
        grand = x.mean(dim=(0, 1))
        total = (x - grand).square().sum(dim=(0, 1, 3))
        group = 3 * (x.mean(1) - grand).square().sum(dim=(0, 2))
        emotion = 8 * (x.mean(0) - grand).square().sum(dim=(0, 2))
        close(fitted.variance_group[slot], group / total)
        close(fitted.variance_emotion[slot], emotion / total)
        assert (fitted.variance_group[slot] + fitted.variance_emotion[slot] <= 1 + 1e-6).all()


@pytest.mark.parametrize("n_groups", [2, 5, 8])
def test_split_half(n_groups: int) -> None:
    values = torch.randn(n_groups, 3, 2, 6, generator=torch.Generator().manual_seed(n_groups), dtype=torch.float64)
    members = [ec.Prompt((), e, f"item_{g}", "neutral") for g in range(n_groups) for e in EMOTIONS]
    statistics = GroupStatistics(members, EMOTIONS, (2, 6), n_splits=5)
    for prompt, value in zip(members, values.flatten(0, 1), strict=True):
        statistics.add(prompt, value)
    result = statistics.split_half()
    assert result.shape == (5, 3, 2)
    seen = []
    for split in range(5):
        first = torch.tensor([bool(statistics._signs[m.group][split] > 0) for m in members[::3]])
        assert int(first.sum()) == n_groups // 2
        seen.append(tuple(first.tolist()))
        halves = [naive_difference(values[chosen]) for chosen in (first, ~first)]
        close(result[split], torch.cosine_similarity(*halves, dim=-1), 1e-10)
    assert len(set(seen)) > 1 or n_groups == 2
    close(statistics.centred, naive_difference(values), 1e-12)


def test_one_group_has_no_halves(qwen) -> None:
    directions = ec.fit_directions(qwen, instructed(1, valences=("neutral",)))
    assert directions.n_groups == 1
    assert torch.isnan(directions.split_half).all()


def test_a_group_with_two_samples_of_an_emotion_counts_once(qwen, asked, fitted) -> None:
    again = ec.fit_directions(qwen, [*asked, *asked[:3], *asked[:1]], batch_size=4)
    assert again.n_groups == 8
    close(again.vectors, fitted.vectors)


def test_what_cannot_be_fitted(qwen, asked) -> None:
    with pytest.raises(EmotionError, match="no prompt has the emotion disgust, joy; elicit it, or leave it out"):
        ec.fit_directions(qwen, asked, ("anger", "joy", "disgust"))
    alone = [replace(p, item=f"{i}") for i, p in enumerate(asked)]
    with pytest.raises(DataError, match=r"none of the 24 groups \(scenario, valence\) has a sample of every emotion"):
        ec.fit_directions(qwen, alone)
    with pytest.raises(DataError, match="none of the 0 groups"):
        ec.fit_directions(qwen, [])


# Reading them


def directions_of(vectors: torch.Tensor) -> ec.EmotionDirections:
    """Directions with given vectors, ``[2, layer, d_model]`` of one emotion."""
    held = torch.nn.functional.normalize(vectors, dim=-1)[:, :, None]
    layers = held.shape[1]
    ones, flat = torch.ones(2, layers, 1), torch.ones(2, layers)
    return ec.EmotionDirections(("anger",), held, ones, flat, 1, ones, flat, flat)


def at_angles(*degrees: float) -> ec.EmotionDirections:
    """Unit vectors in a plane, in the order attention 0, MLP 0, attention 1, ..."""
    radians = torch.tensor([math.radians(d) for d in degrees])
    return directions_of(torch.stack([radians.cos(), radians.sin()], -1).view(-1, 2, 2).transpose(0, 1))


@pytest.mark.parametrize(
    ("degrees", "layers"),
    [
        ((0, 5, 10, 15, 20, 25), [0, 1, 2]),
        ((0, 60, 120, 125, 130, 135), [1, 2]),  # within layer 0 they differ
        ((0, 5, 65, 70, 75, 80), [1, 2]),  # between layers 0 and 1 they differ
        ((0, 5, 65, 66, 126, 130), [1]),  # no two layers agree: the best single one
        ((0, 60, 120, 180, 240, 290), [2]),  # not even one does
    ],
)
def test_stable_layers(degrees, layers: list[int]) -> None:
    assert at_angles(*degrees).stable_layers() == layers


def test_reference_is_the_mean_direction() -> None:
    # 0, 10, 20 and 30 degrees: their mean points to 15.
    reference = at_angles(90, 90, 0, 10, 20, 30).reference("anger", [1, 2])
    close(reference, torch.tensor([math.cos(math.radians(15)), math.sin(math.radians(15))]))


def test_reference_aligns_signs_with_the_last() -> None:
    # 180 and 190 + 180 degrees are turned round to 0 and 10.
    reference = at_angles(90, 90, 180, 10, 200, 30).reference("anger", [1, 2])
    close(reference, torch.tensor([math.cos(math.radians(15)), math.sin(math.radians(15))]))


def test_cosines(fitted) -> None:
    similarity = fitted.similarity("anger")
    mid, post = fitted.of("anger", "attention"), fitted.of("anger", "mlp")
    close(similarity[2, 5], mid[1] @ post[2])  # attention of layer 1 is row 2, MLP of layer 2 row 5
    assert float(fitted.between_emotions(1)[0, 2]) == pytest.approx(float(post[1] @ fitted.of("fear")[1]), abs=1e-6)
    table = fitted.to_frame()
    assert len(table) == 2 * 3 * 3
    row = table[(table.layer == 2) & (table.sublayer == "mlp") & (table.emotion == "fear")].iloc[0]
    assert row["norm"] == pytest.approx(float(fitted.norms[1, 2, 2]))


def test_target_of_an_emotion(qwen, asked, fitted) -> None:
    target = fitted.target("fear")
    resid = qwen.record(asked[:2], "resid_post")[-1]
    close(target(qwen, resid), qwen.final_norm(resid) @ fitted.reference("fear"))
    assert torch.equal(target.local(qwen, "resid_mid", 1), fitted.of("fear", "resid_mid")[1])
    difference = target - fitted.target("anger")
    close(difference(qwen, resid), target(qwen, resid) - fitted.target("anger")(qwen, resid))
    measured = ec.measure(qwen, asked[:2], target)
    close(measured.values, target(qwen, resid))


def test_unknown_emotions_and_sites(fitted) -> None:
    with pytest.raises(EmotionError, match="no emotion 'joy' in these directions; choose among anger, sadness, fear"):
        fitted.of("joy")
    with pytest.raises(NodeError, match="directions exist at resid_mid and resid_post, not at 'neuron'"):
        fitted.of("anger", "neuron")


def test_save_and_load(fitted, tmp_path) -> None:
    fitted.save(tmp_path / "d")
    loaded = ec.EmotionDirections.load(tmp_path / "d")
    for name in ("vectors", "norms", "sigma", "split_half", "variance_group", "variance_emotion"):
        assert torch.equal(getattr(loaded, name), getattr(fitted, name))
    assert (loaded.emotions, loaded.n_groups) == (fitted.emotions, 8)
    assert loaded.provenance["model"] == "tiny-qwen2"
    assert loaded.provenance["n_prompts"] == 24
    assert loaded.stable_layers() == fitted.stable_layers()


def test_damaged_files(fitted, tmp_path) -> None:
    fitted.save(tmp_path / "d")
    (tmp_path / "cut").write_bytes((tmp_path / "d").read_bytes()[:-40])
    with pytest.raises(ArtefactError, match=r"cut cannot be read as a saved directions: .*; is it complete\?"):
        ec.EmotionDirections.load(tmp_path / "cut")
    with pytest.raises(ArtefactError, match="nowhere cannot be read"):
        ec.EmotionDirections.load(tmp_path / "nowhere")
    artefacts.save(tmp_path / "other", "circuit", {}, {})
    with pytest.raises(
        ArtefactError, match=r"holds 'emotion_circuits.circuit/1', expected 'emotion_circuits.directions/1'"
    ):
        ec.EmotionDirections.load(tmp_path / "other")
    artefacts.save(tmp_path / "partial", "directions", {}, {"emotions": []})
    with pytest.raises(ArtefactError, match="lacks the entry 'n_groups'"):
        ec.EmotionDirections.load(tmp_path / "partial")
    with pytest.raises(ArtefactError, match="cannot write"):
        fitted.save(tmp_path / "no" / "folder" / "d")
    with pytest.raises(ArtefactError, match="cannot write"):
        fitted.save(tmp_path / "d" / "inside a file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut", "d", "other", "partial"]


# Contrasts


@pytest.fixture(scope="module")
def replies(asked) -> ec.Replies:
    lengths = [1 + (5 * i) % 7 for i in range(len(asked))]
    made = [ec.Reply(p, "", tuple(range(4, 4 + n)), p.emotion) for p, n in zip(asked, lengths, strict=True)]
    return ec.Replies(tuple(made))


@pytest.fixture(scope="module")
def uninstructed(asked) -> ec.Replies:
    prompts = [replace(p.instructed(None), emotion=None) for p in asked[::3]]
    return ec.Replies(tuple(ec.Reply(p, "", (9, 8, 7, 6)[: 1 + i % 4]) for i, p in enumerate(prompts)))


def naive_means(model, replies: ec.Replies, site: str, generated: bool) -> torch.Tensor:
    """``[sample, layer, unit]``: at the last prompt token, or the mean over the reply's tokens."""
    rows = []
    for reply in replies:
        ids = ids_of(model, reply.prompt)
        run = naive_run(model.hf, [*ids, *reply.tokens])
        layers = [run[site, l] for l in range(3)]
        rows.append(torch.stack([x[len(ids) :].mean(0) if generated else x[len(ids) - 1] for x in layers]))
    return torch.stack(rows)


@pytest.mark.parametrize("baseline", ["emotions", "uninstructed"])
@pytest.mark.parametrize("batch_size", [2, None])
def test_contrasts_are_the_naive_ones(qwen, replies, uninstructed, baseline, batch_size) -> None:
    contrasts = ec.fit_contrasts(qwen, replies, uninstructed, baseline=baseline, batch_size=batch_size)
    assert list(contrasts) == list(EMOTIONS)
    for site in ("neuron", "head", "resid_mid", "resid_post"):
        for generated in (False, True):
            x = naive_means(qwen, replies, site, generated)
            mean = {e: x[[r.emotion == e for r in replies]].mean(0) for e in EMOTIONS}
            base = torch.stack(list(mean.values())).mean(0)
            if baseline == "uninstructed":
                base = naive_means(qwen, uninstructed, site, generated).mean(0)
            for emotion, contrast in contrasts.items():
                held = contrast.reply if generated else contrast.prompt
                for layer in range(3):
                    close(held.at(site, layer), (mean[emotion] - base)[layer])


def test_contrasts_at_the_prompt_alone(qwen, replies, uninstructed) -> None:
    both = ec.fit_contrasts(qwen, replies)["anger"]
    one = ec.fit_contrasts(qwen, replies, match_positions=False)["anger"]
    assert one.reply is None
    close(one.prompt.neurons, both.prompt.neurons)
    doubled = 2.0 * both
    close(doubled.reply.heads, 2.0 * both.reply.heads)


def test_contrasts_use_complete_groups_alone(qwen, replies, uninstructed) -> None:
    cut = ec.Replies(tuple(r for i, r in enumerate(replies) if i != 4))
    # Group 1 (samples 3, 4, 5) is gone, and its uninstructed reply with it.
    kept = ec.Replies(tuple(r for i, r in enumerate(replies) if i not in (3, 4, 5)))
    base = ec.Replies(tuple(r for i, r in enumerate(uninstructed) if i != 1))
    for baseline in ("emotions", "uninstructed"):
        a = ec.fit_contrasts(qwen, cut, uninstructed, baseline=baseline)["fear"]
        b = ec.fit_contrasts(qwen, kept, base, baseline=baseline)["fear"]
        close(a.prompt.neurons, b.prompt.neurons)
        close(a.reply.resid_post, b.reply.resid_post)


def test_contrasts_without_their_baseline(qwen, replies) -> None:
    with pytest.raises(DataError, match=r"needs replies to the uninstructed prompts.*pass uninstructed=ec.generate"):
        ec.fit_contrasts(qwen, replies, baseline="uninstructed")
    with pytest.raises(DataError, match=r"needs replies to the uninstructed prompts"):
        ec.fit_contrasts(qwen, replies, replies, baseline="uninstructed")
    with pytest.raises(DataError, match=r"needs replies to the uninstructed prompts"):
        ConditionMeans.measure(qwen, replies, None).contrasts("uninstructed")
    with pytest.raises(EmotionError, match="no prompt has the emotion joy"):
        ec.fit_contrasts(qwen, replies, emotions=("anger", "joy"))
    with pytest.raises(DataError, match="unknown baseline 'neutral'; the baselines are emotions, uninstructed"):
        unchecked(ec.fit_contrasts, qwen, replies, baseline="neutral")


def test_one_emotion_has_no_contrast_with_itself(qwen, replies, uninstructed) -> None:
    for call in (ec.fit_contrasts, ec.fit_directions):
        with pytest.raises(EmotionError, match="emotions='anger' is one string"):
            call(qwen, replies, emotions="anger")
    with pytest.raises(DataError, match="compares with the mean over emotions, which is anger itself"):
        ec.fit_contrasts(qwen, replies, emotions=("anger",))
    alone = ec.fit_contrasts(qwen, replies, uninstructed, emotions=("anger",), baseline="uninstructed")
    assert alone["anger"].prompt.neurons.abs().max() > 0


def test_prompts_without_an_item_are_grouped_by_what_they_say(qwen) -> None:
    def made(*texts: str) -> list[ec.Prompt]:
        return [ec.Prompt.user(text).instructed(emotion) for text in texts for emotion in EMOTIONS]

    same = made("I moved home", "rain fell")
    assert [p.group for p in same] == [same[0].group] * 3 + [same[3].group] * 3
    assert same[0].group != same[3].group
    assert replace(same[0], valence="positive").group != same[0].group
    assert same[0].group == ec.Prompt.user("I moved home").group  # the uninstructed one belongs to them
    assert ec.Prompt.raw("a").group != ec.Prompt.raw("b").group
    assert replace(same[0], item="item_0").group == ("item_0", None)
    assert ec.fit_directions(qwen, same).n_groups == 2
    different = [ec.Prompt.user(TEXTS[i]).instructed(emotion) for i, emotion in enumerate(EMOTIONS)]
    with pytest.raises(DataError, match=r"none of the 3 groups .* without item= are of one scenario when their user"):
        ec.fit_directions(qwen, different)


def test_the_contrast_of_residuals_is_the_direction(qwen, replies, fitted) -> None:
    contrast = ec.fit_contrasts(qwen, replies)["sadness"].prompt
    close(torch.nn.functional.normalize(contrast.resid_post, dim=-1), fitted.of("sadness"))
    close(contrast.resid_mid.norm(dim=-1), fitted.norms[0, :, 1])
