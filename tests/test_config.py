import pytest

from isospike.config import apply_overrides, parse_yaml, read_config, read_yaml, with_data_dir, with_epochs
from isospike.data import DATA
from isospike.errors import ConfigError
from isospike.optimizers import SGDSpec

BASE = """
recipe: trial
model: {name: ms_resnet20}
data: {kind: digits}
optim: {kind: sgd, lr: 1e-1, weight_decay: 1e-4}
schedule: {kind: cosine}
train: {epochs: 1, batch_size: 32}
"""


def config(*overrides):
    return read_config(apply_overrides(parse_yaml(BASE, "BASE"), overrides), "recipe trial")


def test_yaml_numbers_are_numbers():
    optim = config().optim
    assert isinstance(optim, SGDSpec)
    assert (optim.lr, optim.weight_decay) == (0.1, 1e-4)
    assert config("optim.lr=5E-2").optim.lr == 0.05
    assert config("train.clip_norm=1e+1").train.clip_norm == 10


def test_all_of_it_comes_back_from_its_own_yaml():
    written = config(
        "augment={crop: 4, policy: {kind: randaugment, n: 1}}",
        "optim={kind: adamw, lr: 0.001}",
        "train.freeze=[stem, stage2]",
        "train.sampling=[1, 2.5]",
        "train.weights=runs/x",
    )
    assert read_config(parse_yaml(written.to_yaml(), "written"), "written") == written


def test_overrides_do_not_touch_what_they_are_put_into():
    values = parse_yaml(BASE, "BASE")
    apply_overrides(values, ["optim.lr=7", "augment.policy.kind=randaugment"])
    assert values == parse_yaml(BASE, "BASE")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=abc", "recipe trial: optim.lr: input should be a valid number, got 'abc'"),
        ("optim.lr=", "optim.lr: input should be a valid number, got None"),
        ("optim.lr=-1", "optim.lr: input should be greater than 0, got -1"),
        ("optim.lrr=1", "unknown key 'optim.lrr'; nearest: lr"),
        ("trian.epochs=1", "unknown key 'trian'; nearest: train"),
        ("model.naem=1", "unknown key 'model.naem'; nearest: name"),
        ("model=3", "model must hold keys and values, got 3"),
        ("optim=null", "optim must hold keys and values, got None"),
        ("data.kind=digts", f"data.kind is 'digts', which is none of {', '.join(sorted(DATA))}"),
        ("data={size: 8}", "the key 'data.kind' is missing"),
        ("data.dir=x", "unknown key 'data.dir'; keys there are kind, mean, std, size"),
        ("data.size=7", "data.size: input should be greater than or equal to 8, got 7"),
        ("optim={kind: sgd}", "the key 'optim.lr' is missing"),
        ("objective={kind: tet, wieght: 1}", "unknown key 'objective.wieght'; nearest: weight"),
        ("augment.policy={kind: randaugment, m: 40}", "augment.policy.m: input should be less than 30, got 40"),
        ("augment.policy={kind: randaugment, mm: 4}", "unknown key 'augment.policy.mm'; nearest: m"),
        ("optim.no_decay=[gain]", "optim.no_decay.0: input should be 'norm', 'bias' or 'neuron', got 'gain'"),
        ("train.batch_size=2.5", "train.batch_size: input should be a valid integer, got 2.5"),
        ("train.accumulate=5", "train: batch_size=32 cannot be cut into accumulate=5 equal parts"),
        ("data={kind: folder, test_resize: 100}", "data: test_resize=100 is smaller than size=224"),
        ("data={kind: folder, test_size: 288}", "data: test_resize=256 is smaller than test_size=288"),
        ("data={kind: folder, test_size: 0}", "data.test_size: input should be greater than 0, got 0"),
        ("data={kind: folder, crop_area: [0.5, 0.1]}", "crop_area is \\(smallest, largest\\)"),
        ("train.ema=1.0", "train.ema: input should be less than 1, got 1.0"),
        ("train.freeze=[head]", "train.freeze.0: what can be frozen is stem, stage1, .* or backbone, got 'head'"),
        ("train.freeze=[stage0]", "what can be frozen is stem, stage1"),
        ("train.freeze=[3]", "what can be frozen is stem, stage1, stage2 and so on, or backbone, got 3"),
        ("train.freeze=stem", "train.freeze: input should be a valid tuple, got 'stem'"),
        (
            "train.sampling=balance",
            "train.sampling: it is 'balanced', or a list with a number .* got 'balance'",
        ),
        ("train.sampling=[1, 0]", "train.sampling: it is 'balanced', or a list with a number above 0 for every class"),
        ("objective={kind: cross_entropy, class_weights: [1, x]}", "objective.class_weights: it is 'balanced', or a"),
        ("objective={kind: tet, class_weights: [.inf, 1]}", "objective.class_weights: it is 'balanced', or a list"),
        ("objective={kind: tet, class_weights: [true, 1]}", "objective.class_weights: it is 'balanced', or a list"),
        ("seed=1.5", "seed: input should be a valid integer, got 1.5"),
    ],
)
def test_a_wrong_key_or_value_is_one_sentence(override, message):
    with pytest.raises(ConfigError, match=message) as raised:
        config(override)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr", "--set takes key=value, as optim.lr=0.05, got 'optim.lr'"),
        ("=3", "--set takes key=value"),
        ("optim.lr.x=1", "--set optim.lr.x: 'lr' is 0.1, which has no keys"),
        ("train.epochs=[1", "--set train.epochs, line 1: "),
    ],
)
def test_an_override_that_is_none_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        config(override)


def test_classes_are_balanced_once():
    both = ("train.sampling=balanced", "objective={kind: cross_entropy, class_weights: balanced}")
    with pytest.raises(ConfigError, match="^recipe trial: train.sampling and objective.class_weights are both") as said:
        config(*both)
    assert str(said.value).endswith("which is twice: take one")
    weighted = config(both[0], "objective={kind: cross_entropy, class_weights: [1, 2.5]}")
    assert weighted.objective.class_weights == (1, 2.5)


def test_a_run_that_goes_on_may_have_other_epochs_and_nothing_else():
    assert with_epochs(config(), ["train.epochs=7"]).train.epochs == 7
    assert with_epochs(config(), []) == config()
    for override in ("train.epochs.x=1", "optim.lr=1", "train.batch_size=1"):
        with pytest.raises(ConfigError, match=f"its --set takes train.epochs only, as .* got '{override}'"):
            with_epochs(config(), [override])
    with pytest.raises(ConfigError, match="train.epochs: input should be greater than 0, got 0"):
        with_epochs(config(), ["train.epochs=0"])


def test_several_errors_are_counted():
    with pytest.raises(ConfigError, match=r"\(and 1 more\)"):
        config("optim.lr=abc", "seed=x")


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*none.yaml"):
        read_yaml(tmp_path / "none.yaml")
    for text, message in (
        ("a: 1\na: 2\n", "bad.yaml, line 1: the key 'a' stands twice"),
        ("a: [1\n", "bad.yaml, line 2"),
        ("- a\n", "must hold keys and values, as 'seed: 0', not a list"),
    ):
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_yaml(path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read"):
        read_yaml(tmp_path / "bytes.yaml")


def test_photographs_may_be_tested_smaller_than_the_network_was_trained():
    data = config("data={kind: folder, size: 224, test_resize: 160, test_size: 144}").data
    assert (data.size, data.test_size) == (224, 144)


def test_the_data_folder_goes_where_there_is_one():
    assert with_data_dir(config("data={kind: cifar10}"), "/some/where").data.dir == "/some/where"
    assert with_data_dir(config(), None) == config()
    with pytest.raises(ConfigError, match="the data 'digits' is not read from a folder"):
        with_data_dir(config(), "/some/where")


ODD = {
    "seed: 1\0": "odd: character 8 of the text is #x0000, which may not stand in YAML",
    "seed: !!bool x": "odd, line 1: tags are not read: write the plain value",
    "seed: !!python/object/apply:os.mkdir [x]": "tags are not read",
    "a: 1\n!odd b: 2": "odd, line 2: tags are not read",
    "&a [*a]": "odd, line 1: an alias stands for nothing before it, or for itself",
    "a: *b": "an alias stands for nothing before it",
    "[" * 5000: "values lie more than 32 levels deep",
    "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 40))]): "more than 32 levels deep",
    "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 20))]): "20,000 values",
    "[" + "x," * 30000 + "]": "there are more than 20,000 values",
    "a: 0b_": "'0b_' is no number of at most 64 bits",
    "a: 0x" + "f" * 5000: r"'0xf+\.\.\.' is no number",
    "a: 1" + ":59" * 400 + ".0": "is no number of at most 64 bits",
    "? [a]\n: 2": "a key must be plain text",
    "--- 1\n--- 2": "found another document",
}


@pytest.mark.parametrize("text", ODD, ids=lambda text: text[:16])
def test_yaml_that_no_configuration_needs_is_refused_at_once(text):
    """Each is a few bytes that ended in a stack trace, or never."""
    with pytest.raises(ConfigError, match=ODD[text]) as raised:
        parse_yaml(text, "odd")
    assert len(str(raised.value)) < 300
    assert "\n" not in str(raised.value)


def test_aliases_stand_for_what_they_name():
    text = "a: &it {lr: 0.1}\nb: *it\nc: {<<: *it, x: 2024-01-01}"
    assert parse_yaml(text, "text") == {"a": {"lr": 0.1}, "b": {"lr": 0.1}, "c": {"lr": 0.1, "x": "2024-01-01"}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a." * 500 + "b=1", "no key is more than 32 levels deep"),
        ("x" * 5000 + "=1", r"unknown key 'x{100}\.\.\.'"),
        ("seed=[" + "1," * 5000 + "1]", r"seed: input should be a valid integer, got \(1, .{0,100}\.\.\.$"),
        ('"a\nb"=1', "unknown key '\"a b\"'"),
        ("1=1", "unknown key '1'"),
        ('data.kind="\\ud800"', "data.kind"),
    ],
    ids=lambda value: value[:12],
)
def test_what_is_said_of_long_and_odd_overrides_is_short(override, message):
    with pytest.raises(ConfigError, match=message) as raised:
        config(override)
    str(raised.value).encode()
    assert "\n" not in str(raised.value)


def test_a_configuration_as_large_as_a_video_is_not_read(tmp_path):
    (tmp_path / "large.yaml").write_bytes(b"a: " + b"x" * 300_000)
    with pytest.raises(ConfigError, match="cannot read .*large.yaml: .*holds more than 200,000 bytes"):
        read_yaml(tmp_path / "large.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        read_yaml(tmp_path / "a\0b.yaml")
