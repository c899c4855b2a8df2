"""Compare methods of control on the same items: accuracy with intervals, fluency, and what else changed."""

import emotion_circuits as ec

model = ec.HookedModel.demo()
train, validation, _ = ec.load_sev("demo")
judge = ec.LexiconJudge()
accepted = ec.evaluate(ec.elicit(model, train.limit(12)), judge).accepted()
contrasts = ec.fit_contrasts(model, accepted, ec.generate(model, train.limit(12)), baseline="uninstructed")

emotions = ("anger", "fear")
methods = [ec.Unmodulated(), ec.Prompting(), ec.ContrastSteering(contrasts, layers=(3,), strength=1.0)]
compared = ec.compare(
    model, methods, validation.limit(4), judge, emotions, side_effects=ec.SideEffectTest(model, emotions)
)
columns = ["method", "n", "unscored", "accuracy", "low", "high", "p", "perplexity", "on_topic", "kl"]
print(compared.table(reference="prompting")[columns].round(3).to_string(index=False))
print(compared.accuracy("valence").round(3).to_string(index=False))
