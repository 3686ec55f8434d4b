"""Parameters, multiply-accumulates and neurons: those of the papers' tables and released code."""

import pytest

import isospike as iso

PARAMETERS = {
    "ms_resnet18": 11_693_736,
    "ms_resnet34": 21_801_896,
    "ms_resnet104": 77_350_504,
    "ms_resnet20": 272_474,
    "ms_resnet32": 466_906,
    "ms_resnet44": 661_338,
    "ms_resnet56": 855_770,
    "ms_resnet110": 1_730_714,
    "ms_resnet482": 7_758_106,
    "ds_resnet14": 2_777_674,
    "ds_resnet20": 4_327_754,
    "ds_resnet32": 7_427_914,
    "ds_resnet44": 10_528_074,
    "ds_resnet56": 13_628_234,
    "ds_resnet68": 16_728_394,
    "ds_resnet110": 27_578_954,
}
DA_MILLIONS = {18: 11.69, 34: 21.80, 50: 25.56, 101: 44.55, 152: 60.19}
ROUNDED = {
    "sew_resnet18": 11.69,
    "sew_resnet34": 21.80,
    "sew_resnet50": 25.56,
    "sew_resnet101": 44.55,
    "sew_resnet152": 60.19,
    "vanilla_resnet18": 11.69,
    "vanilla_resnet152": 60.19,
    "vanilla_resnet19": 12.63,
    **{f"da_{order}_resnet{depth}": millions for order in ("cns", "scn") for depth, millions in DA_MILLIONS.items()},
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_to_the_last_one(name):
    assert iso.model_card(name).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_parameters_in_millions(name):
    assert round(iso.model_card(name).parameters / 1e6, 2) == ROUNDED[name]


def test_resnet19_with_a_stem_of_128_channels_and_a_norm_on_its_first_skip():
    assert round(iso.model_card("vanilla_resnet19", body="resnet19_128").parameters / 1e6, 2) == 12.70


@pytest.mark.parametrize("order", ["ncs", "nsc"])
@pytest.mark.parametrize("depth", DA_MILLIONS)
def test_orders_with_the_norm_first_differ_by_a_few_thousand_parameters(order, depth):
    assert abs(iso.model_card(f"da_{order}_resnet{depth}").parameters / 1e6 - DA_MILLIONS[depth]) < 0.012


EVENTS = {"in_channels": 2, "num_classes": 10}


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("ms_resnet20", {"num_classes": 100}, 278_324),
        ("ms_resnet110", {"num_classes": 100}, 1_736_564),
        ("ms_resnet20", {"pool_projection": False}, 272_474),
        ("ms_resnet20", {**EVENTS, "stem": "dvs"}, 272_618),
        ("ms_resnet20", {**EVENTS, "stem": "dvs_stem"}, 272_330),
        ("ms_resnet20", {**EVENTS, "stem": "dvs_both"}, 272_618),
        ("ds_resnet20", {"in_channels": 2, "num_classes": 11, "width": 16, "stem": "cifar_normed"}, 272_395),
        ("ds_resnet14", {**EVENTS, "width": 32}, 696_330),
        ("ms_resnet104", {"stem": "strided"}, 77_284_264),
        *[
            (f"vanilla_resnet{depth}", {"body": "cifar_projected", "neuron": {"kind": "relu"}}, parameters)
            for depth, parameters in {20: 272_762, 32: 467_194, 44: 661_626, 56: 856_058, 110: 1_731_002}.items()
        ],
    ],
    ids=str,
)
def test_parameters_of_alternatives_to_the_last_one(name, options, parameters):
    assert iso.model_card(name, **options).parameters == parameters


def test_parameters_of_the_networks_for_events():
    assert round(iso.model_card("sew_7b_net").parameters / 1e6, 3) == 0.130
    assert round(iso.model_card("sew_wide_7b_net").parameters / 1e6, 3) == 1.192


@pytest.mark.parametrize(
    ("reach", "basic", "bottleneck"), [("fusion", 0.70, 10.4), ("fusion_distant", 0.18, 2.1)], ids=str
)
def test_what_links_over_stages_cost(reach, basic, bottleneck):
    """In millions of parameters, on the ImageNet bodies of 18 and 50 layers."""
    for depth, cost, digits in ((18, basic, 2), (50, bottleneck, 1)):
        linked, plain = (
            iso.model_card(f"da_cns_resnet{depth}", reach=r, num_classes=10).parameters for r in (reach, "stage")
        )
        assert round((linked - plain) / 1e6, digits) == cost


@pytest.mark.parametrize(
    ("stem", "stem_macs", "units", "projections", "neurons"),
    [
        ("dvs", 4.72, 160.4, 2.10, 950_272),
        ("dvs_stem", 1.18, 160.4, 1.05, 753_664),
        ("dvs_both", 1.18, 40.1, 0.52, 237_568),
    ],
)
def test_macs_of_ms_resnet20_on_events(stem, stem_macs, units, projections, neurons):
    card = iso.model_card("ms_resnet20", **EVENTS, stem=stem, input_size=128)
    assert (round(card.stem_macs / 1e6, 2), round(card.projection_macs / 1e6, 2)) == (stem_macs, projections)
    assert (round(card.unit_macs / 1e6, 1), card.neurons) == (units, neurons)


@pytest.mark.parametrize(
    ("name", "size", "stem", "units", "projections", "neurons"),
    [
        ("ms_resnet18", 224, 118.0, 1_676.3, 32.1, 2_308_096),
        ("ms_resnet34", 224, 118.0, 3_526.0, 32.1, 3_562_496),
        ("ms_resnet104", 224, 946.5, 11_618.4, 32.1, 7_225_344),
        ("ms_resnet104", 288, 1_564.7, 19_205.8, 53.1, 11_943_936),
        ("ms_resnet20", 32, 0.4, 40.1, 0.3, 188_416),
        ("ms_resnet110", 32, 0.4, 252.4, 0.3, 1_048_576),
        ("ms_resnet482", 32, 0.4, 1_130.1, 0.3, 4_603_904),
    ],
)
def test_macs_and_neurons_of_ms_resnet(name, size, stem, units, projections, neurons):
    card = iso.model_card(name, input_size=size)
    found = [round(macs / 1e6, 1) for macs in (card.stem_macs, card.unit_macs, card.projection_macs)]
    assert found == [stem, units, projections]
    assert card.neurons == neurons
