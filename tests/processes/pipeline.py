"""The pipeline with a small search.

With the name of a replies' file every process waits for ever once its journal of that file holds a record.
"""

import json
import sys
import time

from emotion_circuits import distributed, journal
from emotion_circuits.pipeline import Settings, run_pipeline, search
from emotion_circuits.pipeline.folder import RunFolder

search.STRENGTHS, search.PLACES = search.Range(0.7, 1.0), search.PLACES[:1]
settings, out, *halfway = json.loads(sys.argv[1]), *sys.argv[2:]

opened, open_journal, add = [""], RunFolder.journal, journal.ReplyJournal.add


def note_name(folder: RunFolder, name: str):
    opened[0] = name
    return open_journal(folder, name)


def add_and_wait(held: journal.ReplyJournal, record: dict) -> None:
    add(held, record)
    if opened[0] in halfway:
        time.sleep(24 * 3600)


RunFolder.journal, journal.ReplyJournal.add = note_name, add_and_wait
with distributed.joined():
    run_pipeline(Settings(**settings | {"emotions": tuple(settings["emotions"])}), out)
