"""The JSON schema of a configuration file, for editors; draft-07, which they all read.

It describes what may be written: durations and sizes as text or numbers, no derived keys. The daemon
does not validate with it; :mod:`daemon.config.read` does, with positions and advice.
"""

from __future__ import annotations

from typing import Any

import msgspec

from daemon.config.document import Document
from daemon.config.keys import Field, Kind, written_fields
from daemon.config.redact import umask_text
from daemon.config.units import DURATION_PATTERN, SIZE_PATTERN

DRAFT = "http://json-schema.org/draft-07/schema#"
_NUMBER_TEXT = r"[0-9]+(?:\.[0-9]+)?"
_UNITS: dict[str, Any] = {
    "duration": {
        "description": "such as 500ms, 30s, 1m30s or 2h, or a number of seconds",
        "oneOf": [
            {"type": "string", "pattern": rf"^(?:{_NUMBER_TEXT}|(?=.){DURATION_PATTERN})$"},
            {"type": "number", "minimum": 0},
        ],
    },
    "size": {
        "description": "such as 500MB (10^6) or 500MiB (2^20), or a number of bytes",
        "oneOf": [{"type": "string", "pattern": f"^{SIZE_PATTERN}$"}, {"type": "integer", "minimum": 0}],
    },
    "word": {"description": "text, or a whole number", "type": ["string", "integer"]},
    "umask": {
        "description": 'octal digits in quotes, such as "022"',
        "type": "string",
        "pattern": "^0?[0-7]{3}$",
    },
}
_TYPES = {Kind.BOOL: "boolean", Kind.INT: "integer", Kind.NUMBER: "number"}
_REFERENCES = {Kind.DURATION: "duration", Kind.SIZE: "size", Kind.WORD: "word", Kind.OCTAL: "umask"}


def json_schema() -> dict[str, Any]:
    """The schema; a new value each time, JSON-ready."""
    definitions: dict[str, Any] = {name: dict(unit) for name, unit in _UNITS.items()}
    root = _section(Document, definitions)
    return {
        "$schema": DRAFT,
        "title": "hostdaemon configuration",
        **root,
        "definitions": dict(sorted(definitions.items())),
    }


def _section(struct: type[msgspec.Struct], definitions: dict[str, Any]) -> dict[str, Any]:
    fields = written_fields(struct)
    schema: dict[str, Any] = {
        "type": "object",
        "description": (struct.__doc__ or "").strip().split("\n")[0],
        "additionalProperties": False,
        "properties": {name: _key(field, definitions) for name, field in fields.items()},
    }
    required = [name for name, field in fields.items() if field.required]
    if required:
        schema["required"] = required
    return schema


def _key(field: Field, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _shape(field, definitions)
    about = {"description": field.key.about} if field.key.about else {}
    if "$ref" in schema and (about or "default" in schema):
        # Draft-07 ignores what stands beside a $ref.
        default = {"default": schema.pop("default")} if "default" in schema else {}
        return {"allOf": [schema], **about, **default}
    return {**schema, **about}


def _shape(field: Field, definitions: dict[str, Any]) -> dict[str, Any]:
    if field.struct is not None:
        name = field.struct.__name__
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = _section(field.struct, definitions)
        reference = {"$ref": f"#/definitions/{name}"}
        if field.kind is Kind.SECTIONS:
            return {"type": ["array", "null"], "items": reference}
        empty = [{"type": "object", "maxProperties": 0}] if field.default is None else []
        return {"anyOf": [reference, *empty, {"type": "null"}]}
    match field.kind:
        case Kind.LIST | Kind.COMMAND:
            few = {"minItems": 1} if field.required else {}
            kinds = ["array"] if field.required else ["array", "null"]
            return {"type": kinds, "items": _scalar(field, field.item), **few}
        case Kind.MAP:
            return {"type": ["object", "null"], "additionalProperties": _scalar(field, field.item)}
        case Kind.OPTIONS:
            return {"type": ["object", "null"], "additionalProperties": {"type": ["object", "null"]}}
    return _with_default(_scalar(field, field.kind), field)


def _scalar(field: Field, kind: Kind) -> dict[str, Any]:
    if kind in _REFERENCES:
        return {"$ref": f"#/definitions/{_REFERENCES[kind]}"}
    if kind is Kind.CHOICE:
        return {"enum": list(field.choices)}
    schema: dict[str, Any] = {"type": _TYPES.get(kind, "string")}
    if field.key.nullable:
        schema["type"] = [schema["type"], "null"]
    if kind in (Kind.INT, Kind.NUMBER):
        bounds = {"minimum": field.key.ge, "exclusiveMinimum": field.key.gt, "maximum": field.key.le}
        schema.update({name: bound for name, bound in bounds.items() if bound is not None})
    elif field.key.pattern:
        schema["pattern"] = f"^(?:{field.key.pattern})$"
    return schema


def _with_default(schema: dict[str, Any], field: Field) -> dict[str, Any]:
    if field.required:
        return schema
    if field.key.nullable:
        return {**schema, "default": None}
    default = umask_text(field.default) if field.kind is Kind.OCTAL else msgspec.to_builtins(field.default)
    return {**schema, "default": default}
