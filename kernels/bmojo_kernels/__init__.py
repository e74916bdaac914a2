"""Recurrences and selections: a naive oracle and a compiled kernel behind one function each."""

from bmojo_kernels.backends import backend_for
from bmojo_kernels.causal_conv1d.op import causal_conv1d, causal_conv1d_step
from bmojo_kernels.gated_delta_scan.op import gated_delta_scan, gated_delta_step
from bmojo_kernels.gated_kalman_scan.op import gated_kalman_scan, gated_kalman_step
from bmojo_kernels.innovation_topk.op import RULES, KeptSet, innovation_topk, selection_priority
from bmojo_kernels.linear_scan.op import linear_scan, linear_step
from bmojo_kernels.lti_scan.op import lti_scan
from bmojo_kernels.memory_attention.op import memory_attention
from bmojo_kernels.memory_attention.step import memory_attention_step
from bmojo_kernels.selective_scan.op import selective_scan, selective_step
from bmojo_kernels.ssd_scan.op import ssd_scan, ssd_step

__all__ = [
    "RULES",
    "KeptSet",
    "backend_for",
    "causal_conv1d",
    "causal_conv1d_step",
    "gated_delta_scan",
    "gated_delta_step",
    "gated_kalman_scan",
    "gated_kalman_step",
    "innovation_topk",
    "linear_scan",
    "linear_step",
    "lti_scan",
    "memory_attention",
    "memory_attention_step",
    "selection_priority",
    "selective_scan",
    "selective_step",
    "ssd_scan",
    "ssd_step",
]
