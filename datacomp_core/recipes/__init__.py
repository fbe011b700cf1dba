"""Recipes: named filters, their tables, and how they are loaded from names and files."""
