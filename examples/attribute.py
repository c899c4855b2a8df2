"""Score every neuron and head by two methods, and see how far they agree."""

import emotion_circuits as ec

model = ec.HookedModel.demo()
train, _, _ = ec.load_sev("demo")
accepted = ec.evaluate(ec.elicit(model, train.limit(8)), ec.LexiconJudge()).accepted()
anger = ec.fit_directions(model, accepted).target("anger")

written = ec.attribute(model, accepted, anger, ec.DirectAttribution())
done = ec.attribute(model, accepted, anger, ec.IntegratedGradients(ec.MeanAblation(written.means), steps=4))

print("what is written: ", written.top(8, "neuron").names)
print("what it does:    ", done.top(8, "neuron").names)
print(ec.compare_attributions(written, done, kind="neuron"))
print(written.to_frame(top=5).to_string(index=False))
