"""Make replies express an emotion that nobody asked for, at several strengths in one batch."""

import emotion_circuits as ec

model = ec.HookedModel.demo()
train, validation, _ = ec.load_sev("demo")
accepted = ec.evaluate(ec.elicit(model, train.limit(8)), ec.LexiconJudge()).accepted()
uninstructed = ec.generate(model, train.limit(8))
contrast = ec.fit_contrasts(model, accepted, uninstructed, baseline="uninstructed")["fear"]

fear = ec.fit_directions(model, accepted).target("fear")
heads = ec.attribute(model, accepted, fear, ec.HeadImportance())
scores = ec.attribute(model, accepted, fear, ec.DirectAttribution()).with_heads(heads)
circuit = ec.build_circuit(scores, neurons=0.98, heads=0.02, size=150, contrast=contrast)

prompt = validation.prompts()[0]
strengths = (0.0, 0.7, 1.4, 2.8)
patches = [ec.Patch(circuit.nodes, ec.Enhancement(contrast, s), rows=(row,)) for row, s in enumerate(strengths)]
replies = ec.generate(model, [prompt] * len(strengths), patches, emotion="fear")

judge = ec.LexiconJudge()
for strength, reply, score in zip(strengths, replies, judge(replies.texts), strict=True):
    print(f"{strength:3}  {score.label or 'unscored':10} {reply.text}")
