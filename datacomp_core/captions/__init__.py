"""Captions as an artifact: imported, made of columns, written by a model, translated; and the policy that chooses among them."""
