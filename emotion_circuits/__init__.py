"""Find, test and use emotion circuits in language models.

The inventory, in the order of the pipeline. Names are loaded when they are first used, so that importing the package
takes no time; ``import emotion_circuits as ec`` is the intended form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    submod_attrs={
        "types": ["EKMAN", "VALENCES", "ModelDims"],
        "errors": ["EmotionCircuitsError"],
        "model": ["HookedModel", "TokenBatch"],
        "nodes": ["Node", "NodeSet", "NodeValues", "Residual"],
        "activations": ["Activations", "Contrast"],
        "interventions": [
            "Patch",
            "Intervention",
            "ZeroAblation",
            "MeanAblation",
            "ResampleAblation",
            "CounterfactualPatch",
            "Samples",
            "Enhancement",
            "Scale",
            "Clamp",
            "Steering",
            "ProjectOut",
        ],
        "data.sev": ["SEV", "load_sev"],
        "data.prompts": ["Prompt"],
        "elicitation": ["elicit"],
        "replies": ["Reply", "Replies"],
        "directions": ["fit_directions", "EmotionDirections", "fit_contrasts"],
        "targets": ["DirectionTarget", "Projection", "LogitDifference", "ResidualFunction"],
        "measurement": ["measure", "Measurement"],
        "attribution": [
            "attribute",
            "attribute_each",
            "Attribution",
            "DirectAttribution",
            "FinalDirectAttribution",
            "HeadImportance",
            "ActivationPatching",
            "AttributionPatching",
            "IntegratedGradients",
            "compare_attributions",
            "Agreement",
            "validation_curves",
            "dose_sweep",
            "sublayer_influence",
            "Influence",
        ],
        "circuits": [
            "build_circuit",
            "Circuit",
            "allocate_quota",
            "Quota",
            "GlobalTop",
            "Threshold",
            "compare_circuits",
            "overlap",
            "mix",
            "faithfulness",
            "completeness",
            "minimality",
            "circuit_curves",
            "circuit_areas",
            "circuit_edges",
            "specificity",
            "smallest_circuit",
            "stability",
        ],
        "generation": ["generate", "GenerationConfig"],
        "control": [
            "calibrate",
            "Calibration",
            "Unmodulated",
            "Prompting",
            "CircuitModulation",
            "CircuitRemoval",
            "ContrastSteering",
            "SteeringVector",
        ],
        "evaluation": ["evaluate", "Evaluation", "compare", "Comparison", "fluency"],
        "interop": ["bake"],
        "evaluation.judges": ["Score", "LexiconJudge", "ClassifierJudge", "LLMJudge", "SelfJudge"],
    },
)

if TYPE_CHECKING:
    from emotion_circuits.activations import Activations, Contrast
    from emotion_circuits.attribution import (
        ActivationPatching,
        Agreement,
        Attribution,
        AttributionPatching,
        DirectAttribution,
        FinalDirectAttribution,
        HeadImportance,
        Influence,
        IntegratedGradients,
        attribute,
        attribute_each,
        compare_attributions,
        dose_sweep,
        sublayer_influence,
        validation_curves,
    )  # fmt: skip
    from emotion_circuits.circuits import (
        Circuit,
        GlobalTop,
        Quota,
        Threshold,
        allocate_quota,
        build_circuit,
        circuit_areas,
        circuit_curves,
        circuit_edges,
        compare_circuits,
        completeness,
        faithfulness,
        minimality,
        mix,
        overlap,
        smallest_circuit,
        specificity,
        stability,
    )
    from emotion_circuits.control import (
        CircuitModulation,
        CircuitRemoval,
        ContrastSteering,
        Prompting,
        SteeringVector,
        Unmodulated,
    )  # fmt: skip
    from emotion_circuits.data.prompts import Prompt
    from emotion_circuits.data.sev import SEV, load_sev
    from emotion_circuits.directions import EmotionDirections, fit_contrasts, fit_directions
    from emotion_circuits.elicitation import elicit
    from emotion_circuits.errors import EmotionCircuitsError
    from emotion_circuits.evaluation import Comparison, Evaluation, compare, evaluate, fluency
    from emotion_circuits.evaluation.judges import ClassifierJudge, LexiconJudge, LLMJudge, Score, SelfJudge
    from emotion_circuits.generation import GenerationConfig, generate
    from emotion_circuits.interop import bake
    from emotion_circuits.interventions import (
        Clamp,
        CounterfactualPatch,
        Enhancement,
        Intervention,
        MeanAblation,
        Patch,
        ProjectOut,
        ResampleAblation,
        Samples,
        Scale,
        Steering,
        ZeroAblation,
    )  # fmt: skip
    from emotion_circuits.measurement import Measurement, measure
    from emotion_circuits.model import HookedModel, TokenBatch
    from emotion_circuits.nodes import Node, NodeSet, NodeValues, Residual
    from emotion_circuits.replies import Replies, Reply
    from emotion_circuits.targets import DirectionTarget, LogitDifference, Projection, ResidualFunction
    from emotion_circuits.types import EKMAN, VALENCES, ModelDims
