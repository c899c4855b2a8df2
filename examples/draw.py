"""Draw results; write one figure as a page that needs nothing else."""

import emotion_circuits as ec
from emotion_circuits import plots

model = ec.HookedModel.demo()
train, _, _ = ec.load_sev("demo")
accepted = ec.evaluate(ec.elicit(model, train.limit(8)), ec.LexiconJudge()).accepted()
directions = ec.fit_directions(model, accepted)
scores = ec.attribute(model, accepted, directions.target("anger"), ec.DirectAttribution())
circuit = ec.build_circuit(scores, neurons=0.95, heads=0.05, size=60)

with plots.theme("paper").using(columns=1):
    figures = [
        plots.circuit_graph(circuit),
        plots.neuron_long_tail(scores),
        plots.head_heatmap(scores),
        plots.direction_similarity(directions, "anger"),
    ]
print([figure.layout.title.text for figure in figures])
print(plots.caption(circuit))
plots.save_figure(figures[0], "circuit.html")  # .pdf, .svg and .png need an installed Chromium
