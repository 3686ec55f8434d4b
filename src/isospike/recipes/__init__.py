"""Recipes: whole runs as YAML files, one per claim."""

from isospike.recipes.catalogue import describe_recipe, list_recipes, load_recipe, recipe_title

__all__ = ["describe_recipe", "list_recipes", "load_recipe", "recipe_title"]
