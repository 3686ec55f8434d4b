"""``isospike recipes``: what can be trained by a name."""

from typing import Annotated

import typer

from isospike.cli.console import Json, out, print_json
from isospike.errors import UnknownName
from isospike.recipes import describe_recipe, list_recipes, recipe_title
from isospike.registry import unknown_name


def recipes_command(
    pattern: Annotated[str, typer.Argument(help="A name, or a shell pattern such as 'cifar10_*'.")] = "*",
    json: Json = False,
) -> None:
    """List recipes with what they train; of one name, its source, command, time and result too."""
    names = list_recipes(pattern)
    if not names and any(sign in pattern for sign in "*?["):
        raise UnknownName(f"no recipe matches '{pattern}'; isospike recipes lists all")
    if not names:
        raise unknown_name("recipe", pattern, list_recipes())
    if json:
        print_json([{"recipe": name, "title": recipe_title(name), "about": describe_recipe(name)} for name in names])
    elif names == [pattern]:
        out.print(describe_recipe(pattern), markup=False, highlight=False, soft_wrap=True)
    else:
        width = max(map(len, names))
        for name in names:
            out.print(f"{name:{width}}  {recipe_title(name)}", markup=False, highlight=False, soft_wrap=True)
