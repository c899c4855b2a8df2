"""Build a circuit, test it beside random ones, find the smallest that is faithful, and save it."""

import emotion_circuits as ec

model = ec.HookedModel.demo()
train, validation, _ = ec.load_sev("demo")
accepted = ec.evaluate(ec.elicit(model, train.limit(8)), ec.LexiconJudge()).accepted()
directions = ec.fit_directions(model, accepted)
anger = directions.target("anger")
scores = ec.attribute(model, accepted, anger, ec.DirectAttribution())
influence = ec.sublayer_influence(model, train.limit(8).prompts(), directions)

circuit = ec.build_circuit(scores, influence, neurons=0.99, heads=0.01, size=150)  # ec.Quota(), the reference's
print(circuit.summary())

ablation = ec.MeanAblation(scores.means)
controls = ec.Controls(n_random=5)
print(ec.faithfulness(model, circuit, validation.limit(4), anger, ablation, controls=controls))
print(ec.completeness(model, circuit, validation.limit(4), anger, ablation, controls=controls))
print(ec.smallest_circuit(model, scores, validation.limit(4), anger, ablation, wanted=0.8, controls=controls))

circuit.save("anger.safetensors")
print(ec.Circuit.load("anger.safetensors", model))
