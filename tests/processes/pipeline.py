"""The pipeline with a small search."""

import json
import sys

from emotion_circuits import distributed
from emotion_circuits.pipeline import Settings, run_pipeline, search

search.STRENGTHS, search.PLACES = search.Range(0.7, 1.0), search.PLACES[:1]
settings = json.loads(sys.argv[1])
with distributed.joined():
    run_pipeline(Settings(**settings | {"emotions": tuple(settings["emotions"])}), sys.argv[2])
