"""Fit emotion directions, ask whether two halves of the data agree on them, and save them."""

import emotion_circuits as ec

model = ec.HookedModel.demo()
train, _, _ = ec.load_sev("demo")
accepted = ec.evaluate(ec.elicit(model, train.limit(8)), ec.LexiconJudge()).accepted()

directions = ec.fit_directions(model, accepted)
print(directions)
print("split-half cosine, mean over sublayers:", float(directions.split_half.mean()))
print("layers in which neighbours agree:", directions.stable_layers())
print("anger against fear after the last MLP:", float(directions.of("anger")[-1] @ directions.of("fear")[-1]))

directions.save("directions.safetensors")
ec.EmotionDirections.load("directions.safetensors")
