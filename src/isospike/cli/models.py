"""``isospike models``: what can be built."""

import fnmatch
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.table import Table

from isospike.cli.console import Import, Json, out, print_json
from isospike.errors import UnknownName
from isospike.layers import MEMORY
from isospike.models import ModelCard, create_model, list_models, model_card
from isospike.own_rows import import_rows
from isospike.train.plan import MemoryPlan, plan_training
from isospike.weights import shipped_weights


def models_command(
    pattern: Annotated[str, typer.Argument(help="A name, or a shell pattern such as 'ms_*'.")] = "*",
    memory: Annotated[
        int | None, typer.Option(min=1, metavar="BATCH", help="Predict what training with this batch takes, by mode.")
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="List the trained weights that come with the package.")
    ] = False,
    import_: Import = None,
    json: Json = False,
) -> None:
    """List models with their parameters, multiply-accumulates and sources."""
    import_rows(import_)
    if weights:
        _print_weights(pattern, json)
        return
    names = list_models(pattern)
    if not names and any(sign in pattern for sign in "*?["):
        raise UnknownName(f"no model matches '{pattern}'; isospike models lists all")
    cards = [model_card(name) for name in names or [pattern]]
    if memory is not None:
        _print_memory([(card, _plans(card, memory)) for card in cards], json)
        return
    if json:
        print_json([card.as_dict() for card in cards])
        return
    out.print(_table(cards))
    for label, card in _presets(cards):
        neuron = f"{card.neuron['kind']} neurons at threshold {card.v_threshold:g}"
        out.print(f"{label}: {neuron}; {card.source}", highlight=False, soft_wrap=True)


def _print_weights(pattern: str, json: bool) -> None:
    cards = {name: card for name, card in shipped_weights().items() if fnmatch.fnmatch(name, pattern)}
    if not cards:
        raise UnknownName(f"no weights match '{pattern}'; isospike models --weights lists all")
    if json:
        print_json([{"weights": name, **card} for name, card in cards.items()])
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("weights", "parameters", "test accuracy", "recipe"):
        numbers = heading in ("parameters", "test accuracy")
        table.add_column(heading, justify="right" if numbers else "left", no_wrap=True)
    for name, card in cards.items():
        accuracy = f"{card['accuracy']:.2%} of {card['test_images']:,}"
        table.add_row(name, f"{card['parameters']:,}", accuracy, card["recipe"])
    out.print(table)


def _plans(card: ModelCard, batch: int) -> list[MemoryPlan]:
    """Plan for SGD with momentum in float32, at the size of the card."""
    model = create_model(card.name)
    return [plan_training(model, batch=batch, size=card.input_size, memory=name) for name in MEMORY]


def _print_memory(rows: list[tuple[ModelCard, list[MemoryPlan]]], json: bool) -> None:
    if json:
        print_json([{"model": card.name, **{plan.memory: round(plan.total) for plan in plans}} for card, plans in rows])
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("model", "T", "input", *MEMORY):
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    for card, plans in rows:
        sizes = [f"{plan.total / 1e9:.2f} GB" for plan in plans]
        table.add_row(card.name, str(card.T), f"{card.input_size}x{card.input_size}", *sizes)
    out.print(table)


def _presets(cards: list[ModelCard]) -> Iterator[tuple[str, ModelCard]]:
    """Yield a card for every neuron that a topology comes with, and the names that it stands for."""
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
    """Write a number with three figures and M or G."""
    return f"{count / 1e9:.3g} G" if count >= 1e9 else f"{count / 1e6:.3g} M"
