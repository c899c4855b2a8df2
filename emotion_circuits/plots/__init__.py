"""Figures: functions that take a result and return a Plotly ``Figure``; they never show it and need no model.

The figures follow the pipeline: directions, scores of nodes, circuits, control. `theme` changes how they look,
`label_looks` brings a label set's colours, `save_figure` writes them, `caption` describes them for a paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

# Lazy, because Plotly takes a moment to load and most of the package does without it.
__getattr__, __dir__, __all__ = lazy_loader.attach(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    submod_attrs={
        "themes": ["Theme", "label_looks", "theme"],
        "geometry": ["direction_similarity", "emotion_similarity", "sample_projection", "emotion_trace"],
        "scores": ["head_heatmap", "neuron_long_tail", "influence_profile"],
        "graph": ["circuit_graph"],
        "curves": ["validation_curves", "dose_sweep", "circuit_curves"],
        "agreement": ["overlap_matrix", "specificity", "stability"],
        "calibration": ["dose_response"],
        "control": ["accuracy_bars"],
        "trade_off": ["pareto"],
        "tracing": ["trace_heatmap"],
        "affect": ["affect_plane", "language_agreement", "emotion_dynamics"],
        "discovery": ["discovery"],
        "export": ["save_figure"],
        "captions": ["caption"],
    },
)

if TYPE_CHECKING:
    from emotion_circuits.plots.affect import affect_plane, emotion_dynamics, language_agreement
    from emotion_circuits.plots.agreement import overlap_matrix, specificity, stability
    from emotion_circuits.plots.calibration import dose_response
    from emotion_circuits.plots.captions import caption
    from emotion_circuits.plots.control import accuracy_bars
    from emotion_circuits.plots.curves import circuit_curves, dose_sweep, validation_curves
    from emotion_circuits.plots.discovery import discovery
    from emotion_circuits.plots.export import save_figure
    from emotion_circuits.plots.geometry import (
        direction_similarity,
        emotion_similarity,
        emotion_trace,
        sample_projection,
    )
    from emotion_circuits.plots.graph import circuit_graph
    from emotion_circuits.plots.scores import head_heatmap, influence_profile, neuron_long_tail
    from emotion_circuits.plots.themes import Theme, label_looks, theme
    from emotion_circuits.plots.tracing import trace_heatmap
    from emotion_circuits.plots.trade_off import pareto
