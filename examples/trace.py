"""Read instead of write: how strongly each emotion is written at every token of a conversation."""

import emotion_circuits as ec

model = ec.HookedModel.demo()
train, _, _ = ec.load_sev("demo")
accepted = ec.evaluate(ec.elicit(model, train.limit(8)), ec.LexiconJudge()).accepted()
directions = ec.fit_directions(model, accepted)

conversation = [
    ("user", "My cousin broke the cupboard and sent the bill to me."),
    ("assistant", "I am furious. I could scream at your cousin."),
]
trace = ec.trace(model, conversation, directions)
print(trace)
last = trace.to_frame().query(f"layer == {model.dims.n_layers - 1}")
print(last.pivot_table(index="role", columns="emotion", values="projection").round(2).to_string())
