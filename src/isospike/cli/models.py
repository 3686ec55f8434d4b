"""``isospike models``: what can be built."""

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.table import Table

from isospike.cli.console import Json, out, print_json
from isospike.errors import UnknownName
from isospike.models import ModelCard, list_models, model_card


def models_command(
    pattern: Annotated[str, typer.Argument(help="A name, or a shell pattern such as 'ms_*'.")] = "*", json: Json = False
) -> None:
    """List models with their parameters, multiply-accumulates and sources."""
    names = list_models(pattern)
    if not names and any(sign in pattern for sign in "*?["):
        raise UnknownName(f"no model matches '{pattern}'; isospike models lists all")
    cards = [model_card(name) for name in names or [pattern]]
    if json:
        print_json([card.as_dict() for card in cards])
        return
    out.print(_table(cards))
    for label, card in _presets(cards):
        neuron = f"{card.neuron['kind']} neurons at threshold {card.v_threshold:g}"
        out.print(f"{label}: {neuron}; {card.source}", highlight=False, soft_wrap=True)


def _presets(cards: list[ModelCard]) -> Iterator[tuple[str, ModelCard]]:
    """A card for every neuron that a topology comes with, and the names that it stands for."""
    groups: dict[str, dict[str, list[ModelCard]]] = {}
    for card in cards:
        groups.setdefault(card.topology, {}).setdefault(str(card.neuron), []).append(card)
    for topology, by_neuron in groups.items():
        for index, alike in enumerate(by_neuron.values()):
            yield ", ".join(card.name for card in alike) if index else topology, alike[0]


def _table(cards: list[ModelCard]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("model", "T", "input", "parameters", "MACs", "neurons"):
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    for card in cards:
        size = f"{card.input_size}x{card.input_size}"
        counts = (f"{card.parameters:,}", _short(card.macs), f"{card.neurons:,}")
        table.add_row(card.name, str(card.T), size, *counts)
    return table


def _short(count: int) -> str:
    """With three figures and M or G."""
    return f"{count / 1e9:.3g} G" if count >= 1e9 else f"{count / 1e6:.3g} M"
