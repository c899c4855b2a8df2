"""Methods of control, put together: two emotions at once, and strength over the tokens of a reply."""

import emotion_circuits as ec

model = ec.HookedModel.demo()
train, validation, _ = ec.load_sev("demo")
accepted = ec.evaluate(ec.elicit(model, train.limit(12)), ec.LexiconJudge()).accepted()
contrasts = ec.fit_contrasts(model, accepted, ec.generate(model, train.limit(12)), baseline="uninstructed")

steering = ec.ContrastSteering(contrasts, layers=(3,), strength=1.0)
methods = {
    "anger": steering,
    "anger and sadness": ec.Mixture(steering, {"anger": 0.6, "sadness": 0.4}),
    "anger that fades": ec.Schedule(steering, ec.Decay(half_life=6)),
    "anger, then happiness": ec.Switch(steering, then="happiness", at=10),
}
items = validation.limit(1).items[:1]
for name, method in methods.items():
    prompts, patches = method.prepare(items, "anger")
    print(f"{name:22} {ec.generate(model, prompts, patches).texts[0]}")
