"""Find the strength on validation scenarios, under a bound on fluency, and see the whole dose-response curve."""

import emotion_circuits as ec

model = ec.HookedModel.demo()
train, validation, _ = ec.load_sev("demo")
judge = ec.LexiconJudge()
accepted = ec.evaluate(ec.elicit(model, train.limit(12)), judge).accepted()
contrasts = ec.fit_contrasts(model, accepted, ec.generate(model, train.limit(12)), baseline="uninstructed")

families = {"layer 3": lambda emotion, strength: ec.ContrastSteering(contrasts, (3,), strength)}
found = ec.calibrate(model, families, validation.limit(6), judge, ("anger", "fear"))

for emotion, point in found.chosen.items():
    print(f"{emotion}: strength {point.strength:.2f}, {100 * point.share:.0f} % of the residual's norm; {point.regime}")
print(found.to_frame()[["emotion", "strength", "share", "n", "accuracy", "perplexity_ratio", "regime"]].round(2))
print(found.n_generations, "replies were generated")
