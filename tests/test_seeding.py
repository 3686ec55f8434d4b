"""Seeds: of any parts, and no two alike."""

from itertools import product

import pytest

from isospike.seeding import derive_seed


def test_no_two_lists_of_parts_share_a_seed():
    """Of every length, with the zeros that a hash fills up short ones with, and beyond the 32 bits of its words."""
    values = (0, 1, 3, 2**32, 5 * 2**32 + 1)
    parts = [p for length in range(5) for p in product(values, repeat=length)]
    seeds = [derive_seed(*p) for p in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [derive_seed(*p) for p in parts]


@pytest.mark.parametrize("part", [-1, 2**64])
def test_a_part_out_of_range_is_no_seed(part):
    with pytest.raises(OverflowError):
        derive_seed(0, part)
