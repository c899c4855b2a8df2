"""Ask for emotions by instruction, and see which replies have them."""

import emotion_circuits as ec

model = ec.HookedModel.demo()
train, _, _ = ec.load_sev("demo")  # or ec.SEV.from_jsonl("mine.jsonl")

elicited = ec.elicit(model, train.limit(6), emotions=("anger", "fear", "happiness"))
judged = ec.evaluate(elicited, ec.LexiconJudge())

print(judged.accuracy("emotion").to_string(index=False))
for reply in judged.accepted().replies[:6]:
    print(f"{reply.emotion:10} {reply.text}")

elicited.save("elicited.jsonl")
assert ec.Replies.load("elicited.jsonl") == elicited
