"""How filters inside filters look in a form: one level is spelled out, deeper ones are any JSON of the right shape.

Prefect's form cannot draw a union that holds itself. Validation is not limited by this: Python and YAML nest as they like.
"""

from __future__ import annotations

from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic_core import core_schema

COMBINATIONS = ("all", "any", "not")
_leaves: list[TypeAdapter[Any]] = []


def show_as_leaves(adapter: TypeAdapter[Any]) -> None:
    """What a nested filter is drawn as. Set once, by the contents page, which alone knows all filters."""
    _leaves[:] = [adapter]


class Nested:
    """Annotation of a field that holds filters."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return handler(source)

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        drawn = dict(handler(_leaves[0].core_schema))
        deeper = {
            "title": "Nested",
            "description": "A combination inside a combination, as JSON.",
            "type": "object",
            "properties": {"kind": {"type": "string", "enum": list(COMBINATIONS)}},
            "required": ["kind"],
        }
        return {"anyOf": [*drawn.get("oneOf", [drawn]), deeper]}
