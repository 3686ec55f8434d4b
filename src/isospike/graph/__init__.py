"""The graph of a network: a program of operations on numbered maps, and the rules that rewrite it."""

from isospike.graph.domains import promised_domains
from isospike.graph.kept import Kept
from isospike.graph.network import Network
from isospike.graph.program import (
    Affine,
    Between,
    Call,
    Complement,
    Conv,
    Operation,
    Program,
    Value,
    timed_values,
    uses,
    writes,
)
from isospike.graph.recorder import Unrecordable, is_known_neuron, is_norm, is_untouched, record, record_network
from isospike.graph.reference import apply_affine, join, run_eager
from isospike.graph.rules import INFERENCE, TRAINING, accumulate, rewrite
from isospike.graph.segments import natural_segments
from isospike.graph.text import (
    module_from_json,
    module_to_json,
    modules_of,
    program_from_json,
    program_to_json,
    with_modules,
)

__all__ = [
    "INFERENCE",
    "TRAINING",
    "Affine",
    "Between",
    "Call",
    "Complement",
    "Conv",
    "Kept",
    "Network",
    "Operation",
    "Program",
    "Unrecordable",
    "Value",
    "accumulate",
    "apply_affine",
    "join",
    "is_known_neuron",
    "is_norm",
    "is_untouched",
    "module_from_json",
    "module_to_json",
    "modules_of",
    "natural_segments",
    "program_from_json",
    "program_to_json",
    "promised_domains",
    "record",
    "record_network",
    "rewrite",
    "run_eager",
    "timed_values",
    "uses",
    "with_modules",
    "writes",
]
