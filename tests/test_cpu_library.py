"""Which build of the library is called, and what becomes of one that must not be."""

import ctypes

import pytest
import torch

from isospike.errors import ConfigError
from isospike.ops import FireRule, leaky_fire, memory, use_backend
from isospike.ops.cpu import library
from isospike.ops.cpu.abi import STRUCTS
from isospike.ops.cpu.build import ISAS, compile_libraries, library_path, stamp
from isospike.ops.cpu.packing import room_for_bits

pytestmark = [pytest.mark.compiled, pytest.mark.usefixtures("found_anew")]
LANES = {"plain": 4, "avx2": 8, "avx512": 16}


def fire():
    return leaky_fire(torch.randn(3, 2, 5), decay=0.5, gain=1.0, rule=FireRule())


@pytest.mark.parametrize("asked", ISAS)
def test_the_variable_only_lowers(asked, monkeypatch):
    monkeypatch.delenv("ISOSPIKE_ISA", raising=False)
    highest = list(ISAS).index(library.instruction_set())
    monkeypatch.setenv("ISOSPIKE_ISA", asked)
    library._found.cache_clear()
    taken = list(ISAS)[min(highest, list(ISAS).index(asked))]
    assert library.instruction_set() == taken
    assert library.lanes() == library.compiled().isospike_lanes() == LANES[taken]


def test_an_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv("ISOSPIKE_ISA", "sse2")
    with pytest.raises(ConfigError, match="^ISOSPIKE_ISA must be one of plain, avx2, avx512, got 'sse2'$"):
        fire()


def with_libraries(folder, change):
    for isa in ISAS:
        if library_path(isa).is_file():
            library_path(isa, folder).write_bytes(change(library_path(isa).read_bytes()))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data.replace(stamp().encode(), b"0" * 16), "_cpu_plain.so was compiled from other sources"),
        (lambda data: data.replace(b"isospike_stamp", b"isospike_stomp"), "was compiled from other sources"),
        (lambda data: b"not a library", "_cpu_plain.so does not load here"),
    ],
    ids=["other sources", "no stamp", "no library"],
)
def test_a_library_that_must_not_be_called_is_said_and_the_reference_runs(change, reason, monkeypatch, tmp_path):
    with_libraries(tmp_path, change)
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    assert reason in library.no_library()
    assert "install isospike again" in library.no_library()
    assert (library.library(), library.instruction_set(), library.lanes()) == (None, None, 0)
    with use_backend("cpu"), pytest.raises(ConfigError, match=f"backend 'cpu' cannot run this: .*{reason}"):
        fire()
    assert fire()[0].shape == (3, 2, 5)


@pytest.mark.parametrize("name", STRUCTS)
def test_a_struct_of_another_size_is_noticed(name, monkeypatch):
    class Longer(STRUCTS[name]):
        _fields_ = [("more", ctypes.c_int64)]

    monkeypatch.setitem(STRUCTS, name, Longer)
    assert "was compiled from other sources" in library.no_library()


@pytest.mark.parametrize("name", ["dense_products", "spike_scatter", "sum_block"])
def test_what_is_not_meant_for_python_is_hidden(name):
    assert not hasattr(library.compiled(), name)


@pytest.mark.parametrize("size", [16, memory.LARGE])
def test_what_the_suite_hands_to_the_library_is_no_lucky_zero(size):
    assert memory.empty_strided((size,), (1,)).isnan().all()
    assert memory.empty_like(torch.zeros(size)).isnan().all()
    assert torch.equal(room_for_bits(size), torch.full((size // 64 + 2 - (size % 64 == 0),), -1))


def test_a_compiler_that_is_not_there_is_an_error_that_is_said(tmp_path):
    said = compile_libraries(["no-such-compiler"], tmp_path)
    assert said == "no-such-compiler cannot be run: No such file or directory"
    assert not list(tmp_path.iterdir())
