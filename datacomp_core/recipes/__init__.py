"""Recipes: named filters. `baselines` and `published` are the tables, `load` reads names, YAML and Python files."""

from __future__ import annotations

from datacomp_core.recipes import baselines, published
from datacomp_core.recipes.base import Recipe, RecipeRow, recipe, register

__all__ = ["Recipe", "RecipeRow", "baselines", "published", "recipe", "register"]
