"""How much of a push along an emotion, at every sublayer, arrives at the end?"""

import emotion_circuits as ec

model = ec.HookedModel.demo()
train, _, _ = ec.load_sev("demo")
accepted = ec.evaluate(ec.elicit(model, train.limit(8)), ec.LexiconJudge()).accepted()
directions = ec.fit_directions(model, accepted)

influence = ec.sublayer_influence(model, train.limit(8).prompts(), directions)
print(influence)
print("anger, attention:", [round(x, 3) for x in influence.of("anger")[0].tolist()])
print("anger, MLP:      ", [round(x, 3) for x in influence.of("anger")[1].tolist()])
influence.save("influence.safetensors")
