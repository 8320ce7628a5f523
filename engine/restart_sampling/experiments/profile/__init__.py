"""Profiles of a run: launches, bytes and time, by part."""

from ...common.torch_profiler import torch_profiler as torch_profiler
from ..measure.traffic import bytes_per_evaluation as bytes_per_evaluation
from ..measure.traffic import step_bytes as step_bytes
from .commands import job_command as job_command
from .commands import ncu_command as ncu_command
from .commands import nsys_command as nsys_command
from .commands import nsys_stats_command as nsys_stats_command
from .parts import PARTS as PARTS
from .parts import Part as Part
from .parts import Profile as Profile
from .parts import duration as duration
from .parts import profile_cpu as profile_cpu
from .parts import profile_cuda as profile_cuda
from .traces import Event as Event
from .traces import read_nsys as read_nsys
from .traces import read_trace as read_trace
from .traces import write_trace as write_trace
