"""Restart for ComfyUI: a node that gives a SAMPLER, and one that shows its plan.

One file in ComfyUI's custom_nodes is the installation, beside `pip install restart-sampling` in ComfyUI's environment:

    # custom_nodes/restart_sampling_nodes.py
    from restart_sampling.integrations.comfy import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

Importing this needs no ComfyUI. `register()` also puts "restart" into the samplers of the ordinary KSampler node.
"""

from __future__ import annotations

from .nodes import RestartPlanNode as RestartPlanNode
from .nodes import RestartSamplerNode as RestartSamplerNode
from .register import register as register
from .sampler import sample_restart_in_comfyui as sample_restart_in_comfyui

NODE_CLASS_MAPPINGS = {"RestartSampler": RestartSamplerNode, "RestartPlan": RestartPlanNode}
NODE_DISPLAY_NAME_MAPPINGS = {"RestartSampler": "Restart Sampler", "RestartPlan": "Restart Plan"}

__all__ = [
    "NODE_CLASS_MAPPINGS",
    "NODE_DISPLAY_NAME_MAPPINGS",
    "RestartPlanNode",
    "RestartSamplerNode",
    "register",
    "sample_restart_in_comfyui",
]
