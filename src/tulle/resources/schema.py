"""JSON Schema of the resources, from the models, for editors and for the reference pages.

Descriptions are the docstrings under the fields. They are read from the modules' source here
and not by pydantic, which would do so whenever the models are imported.
"""

import ast
import inspect
from functools import cache
from types import ModuleType
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from tulle.resources.registry import KINDS, Kind

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
REFERENCE: Final = "#/$defs/{model}"


class _Described(GenerateJsonSchema):
    """Adds what the fields' docstrings say, and drops titles, which repeat the names."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        described = super().model_schema(schema)
        described.pop("title", None)
        descriptions = field_descriptions(schema["cls"])
        for name, field in schema["cls"].model_fields.items():
            value = described["properties"][field.alias or name]
            value.pop("title", None)
            if value.get("default", "") is None:
                del value["default"]
            if text := descriptions.get(name):
                value["description"] = text
        return described


def field_descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring under each field of *model*, inherited ones included."""
    found: dict[str, str] = {}
    for parent in reversed(model.__mro__):
        module = inspect.getmodule(parent)
        if module is not None and module.__name__.startswith("tulle."):
            found |= _module_descriptions(module).get(parent.__name__, {})
    return found


@cache
def _module_descriptions(module: ModuleType) -> dict[str, dict[str, str]]:
    """Return, of each class of *module*, the strings that stand under its annotated names."""
    tree = ast.parse(inspect.getsource(module))
    return {
        node.name: {
            field.target.id: inspect.cleandoc(doc.value.value)
            for field, doc in zip(node.body, node.body[1:], strict=False)
            if isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(doc, ast.Expr)
            and isinstance(doc.value, ast.Constant)
            and isinstance(doc.value.value, str)
        }
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def kind_schema(kind: Kind) -> dict[str, Any]:
    """Return the JSON Schema of one kind, complete in itself."""
    references, definitions = models_json_schema(
        [(kind.model, "validation")], schema_generator=_Described, ref_template=REFERENCE
    )
    _require_type(definitions["$defs"][kind.name])
    return {"$schema": DIALECT, **references[kind.model, "validation"], **definitions}


def bundle() -> dict[str, Any]:
    """Return one JSON Schema that any resource of any kind fits."""
    references, definitions = models_json_schema(
        [(kind.model, "validation") for kind in KINDS.values()],
        schema_generator=_Described,
        ref_template=REFERENCE,
    )
    for kind in KINDS.values():
        _require_type(definitions["$defs"][kind.name])
    any_of = [references[kind.model, "validation"] for kind in KINDS.values()]
    return {"$schema": DIALECT, "anyOf": any_of, **definitions}


def _require_type(schema: dict[str, Any]) -> None:
    """Demand `apiVersion` and `kind`, which the models fill in by themselves."""
    schema["required"] = ["apiVersion", "kind", *schema["required"]]
