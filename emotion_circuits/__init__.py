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
            "GroupMeanAblation",
            "ResampleAblation",
            "CounterfactualPatch",
            "Samples",
            "Enhancement",
            "Scale",
            "Clamp",
            "Steering",
            "ProjectOut",
            "Scheduled",
            "Ramp",
            "Decay",
            "Window",
        ],
        "data.sev": ["SEV", "load_sev"],
        "data.prompts": ["Prompt"],
        "data.labels": ["LabelSet"],
        "data.instructions": ["Wording"],
        "elicitation": ["elicit"],
        "replies": ["Reply", "Replies"],
        "directions": [
            "fit_directions",
            "EmotionDirections",
            "check_directions",
            "DirectionQuality",
            "fit_contrasts",
            "project_samples",
        ],
        "affect": ["affect_space", "circular_order", "language_agreement", "emotion_dynamics"],
        "targets": [
            "DirectionTarget",
            "Projection",
            "LogitDifference",
            "SaidTarget",
            "ResidualFunction",
            "said_targets",
        ],
        "measurement": ["measure", "Measurement"],
        "tracing": ["trace", "Trace"],
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
            "ContrastiveGradients",
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
            "attribute_edges",
            "groups_of",
            "specificity",
            "Controls",
            "shuffled_scores",
            "smallest_circuit",
            "stability",
        ],
        "presets": ["Preset", "preset"],
        "generation": ["generate", "GenerationConfig"],
        "backends": ["OpenAIBackend", "VLLMBackend"],
        "control": [
            "calibrate",
            "Calibration",
            "Unmodulated",
            "Prompting",
            "CircuitModulation",
            "CircuitRemoval",
            "ContrastSteering",
            "SteeringVector",
            "Suppression",
            "Mixture",
            "Schedule",
            "Switch",
            "Condition",
            "Conditional",
        ],
        "evaluation": ["evaluate", "Evaluation", "compare", "Comparison", "fluency", "SideEffectTest", "trade_off"],
        "interop": ["bake"],
        "pipeline": ["load_run"],
        "explorer": ["Explorer"],
        "evaluation.judges": ["Score", "LexiconJudge", "ClassifierJudge", "LLMJudge", "SelfJudge"],
    },
)

if TYPE_CHECKING:
    from emotion_circuits.activations import Activations, Contrast
    from emotion_circuits.affect import affect_space, circular_order, emotion_dynamics, language_agreement
    from emotion_circuits.attribution import (
        ActivationPatching,
        Agreement,
        Attribution,
        AttributionPatching,
        ContrastiveGradients,
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
    from emotion_circuits.backends import OpenAIBackend, VLLMBackend
    from emotion_circuits.circuits import (
        Circuit,
        Controls,
        GlobalTop,
        Quota,
        Threshold,
        allocate_quota,
        attribute_edges,
        build_circuit,
        circuit_areas,
        circuit_curves,
        circuit_edges,
        compare_circuits,
        completeness,
        faithfulness,
        groups_of,
        minimality,
        mix,
        overlap,
        shuffled_scores,
        smallest_circuit,
        specificity,
        stability,
    )
    from emotion_circuits.control import (
        Calibration,
        CircuitModulation,
        CircuitRemoval,
        Condition,
        Conditional,
        ContrastSteering,
        Mixture,
        Prompting,
        Schedule,
        SteeringVector,
        Suppression,
        Switch,
        Unmodulated,
        calibrate,
    )  # fmt: skip
    from emotion_circuits.data.instructions import Wording
    from emotion_circuits.data.labels import LabelSet
    from emotion_circuits.data.prompts import Prompt
    from emotion_circuits.data.sev import SEV, load_sev
    from emotion_circuits.directions import (
        DirectionQuality,
        EmotionDirections,
        check_directions,
        fit_contrasts,
        fit_directions,
        project_samples,
    )  # fmt: skip
    from emotion_circuits.elicitation import elicit
    from emotion_circuits.errors import EmotionCircuitsError
    from emotion_circuits.evaluation import (
        Comparison,
        Evaluation,
        SideEffectTest,
        compare,
        evaluate,
        fluency,
        trade_off,
    )
    from emotion_circuits.evaluation.judges import ClassifierJudge, LexiconJudge, LLMJudge, Score, SelfJudge
    from emotion_circuits.explorer import Explorer
    from emotion_circuits.generation import GenerationConfig, generate
    from emotion_circuits.interop import bake
    from emotion_circuits.interventions import (
        Clamp,
        CounterfactualPatch,
        Decay,
        Enhancement,
        GroupMeanAblation,
        Intervention,
        MeanAblation,
        Patch,
        ProjectOut,
        Ramp,
        ResampleAblation,
        Samples,
        Scale,
        Scheduled,
        Steering,
        Window,
        ZeroAblation,
    )  # fmt: skip
    from emotion_circuits.measurement import Measurement, measure
    from emotion_circuits.model import HookedModel, TokenBatch
    from emotion_circuits.nodes import Node, NodeSet, NodeValues, Residual
    from emotion_circuits.pipeline import load_run
    from emotion_circuits.presets import Preset, preset
    from emotion_circuits.replies import Replies, Reply
    from emotion_circuits.targets import (
        DirectionTarget,
        LogitDifference,
        Projection,
        ResidualFunction,
        SaidTarget,
        said_targets,
    )  # fmt: skip
    from emotion_circuits.tracing import Trace, trace
    from emotion_circuits.types import EKMAN, VALENCES, ModelDims
