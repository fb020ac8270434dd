"""Recipes: YAML files read into typed dataclasses, strictly, with all mistakes told at once."""
