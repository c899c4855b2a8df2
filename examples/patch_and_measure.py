"""Take nodes away, measure what that does to an emotion, and do the same under TransformerLens."""

import torch

import emotion_circuits as ec

model = ec.HookedModel.demo()
train, validation, _ = ec.load_sev("demo")
accepted = ec.evaluate(ec.elicit(model, train.limit(8)), ec.LexiconJudge()).accepted()
anger = ec.fit_directions(model, accepted).target("anger")
scores = ec.attribute(model, accepted, anger, ec.DirectAttribution())

prompts = validation.limit(6).prompts("anger")
best = scores.top(10, "neuron")
before = ec.measure(model, prompts, anger)
for name, nodes in {"the ten best": best, "ten random": best.random_like(seed=0)}.items():
    patch = ec.Patch(nodes, ec.MeanAblation(scores.means), positions="last_prompt")
    print(f"without {name}: {ec.measure(model, prompts, anger, patch) - before}")

patch = ec.Patch(best, ec.ZeroAblation(), positions="last_prompt")
tokens = torch.tensor([model.tokens(prompts)[0]])
with model.patched(patch):
    _, cache = model.tl.run_with_cache(tokens)
node = next(iter(best))
print(node, "under TransformerLens:", float(cache[f"blocks.{node.layer}.mlp.hook_post"][0, -1, node.index]))
