"""Write a circuit into a plain checkpoint, and load it without this package."""

from transformers import AutoModelForCausalLM

import emotion_circuits as ec

model = ec.HookedModel.demo()
train, _, _ = ec.load_sev("demo")
accepted = ec.evaluate(ec.elicit(model, train.limit(8)), ec.LexiconJudge()).accepted()
uninstructed = ec.generate(model, train.limit(8))
contrast = ec.fit_contrasts(model, accepted, uninstructed, baseline="uninstructed")["anger"]
anger = ec.fit_directions(model, accepted).target("anger")
scores = ec.attribute(model, accepted, anger, ec.DirectAttribution())
circuit = ec.build_circuit(scores, neurons=0.98, heads=0.02, size=150)

folder = ec.bake(model, circuit, ec.Enhancement(contrast, strength=0.5), "angry-demo")
print(sorted(path.name for path in folder.iterdir()))
print(type(AutoModelForCausalLM.from_pretrained(folder)).__name__)
