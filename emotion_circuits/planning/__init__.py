"""What a run will cost, from the model's configuration alone: FLOPs, bytes, time and memory of every stage.

1. `shapes`: the model's sizes, from a configuration; no weights are needed.
2. `workload`: what the pipeline runs in each stage, as passes over prompts, generations and suffix passes.
3. `devices`: what a device reaches of its peak, measured here (`measuring`) or taken from its data sheet.
4. `cost`: FLOPs, bytes and seconds of a pass on a device; `plan` adds them up for several devices.
"""

from emotion_circuits.planning.amounts import data_of
from emotion_circuits.planning.devices import Device, device_named
from emotion_circuits.planning.measuring import measured_device
from emotion_circuits.planning.plan import Plan, plan
from emotion_circuits.planning.shapes import ModelShape, shape_of
from emotion_circuits.planning.workload import Lengths, Scale, workload

__all__ = [
    "Device", "Lengths", "ModelShape", "Plan", "Scale", "data_of", "device_named", "measured_device", "plan",
    "shape_of", "workload",
]  # fmt: skip
