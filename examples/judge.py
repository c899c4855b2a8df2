"""Judge texts offline, compare two judges, and make a sheet for people to label."""

import emotion_circuits as ec
from emotion_circuits.evaluation.judges import cohen_kappa, write_labelling_sheet

texts = [
    "I could scream, this is outrageous!",
    "My hands are shaking and I want to run.",
    "The meeting is at noon.",
    "Oh, how wonderful, I can't stop smiling.",
]
judge = ec.LexiconJudge()
for text, score in zip(texts, judge(texts), strict=True):
    print(f"{score.label or 'unscored':10} {text}   ({score.reason})")

bolder = ec.LexiconJudge(threshold=0.5)
print(cohen_kappa(judge(texts), bolder(texts)))
write_labelling_sheet("sheet.csv", texts)  # read_labelling_sheet takes it back, filled in
