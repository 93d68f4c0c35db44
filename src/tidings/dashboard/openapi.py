"""The OpenAPI 3.1 document, made from the same values that the routes are made from."""

from __future__ import annotations

import re
from datetime import datetime
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from tidings import __version__
from tidings.dashboard.actions import ACTIONS, FILTERS
from tidings.dashboard.api import DRY_RUN, READS
from tidings.dashboard.params import Param
from tidings.dashboard.shapes import Result

__all__ = ["document"]

_PATH = {
    "event_id": {"type": "string", "minLength": 1, "maxLength": 255},
    "number": {"type": "integer", "minimum": 0, "maximum": 2**53},
}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what happened, with which value, and what to do"},
    },
}
_ERRORS = {
    400: "a value cannot be used",
    401: "nobody is known",
    403: "this user may not",
    404: "there is nothing of that name",
    503: "the database cannot be reached",
}
_ACTING = {**_ERRORS, 413: "the body is too large", 415: "the body is not JSON"}


def document(base: str) -> dict[str, Any]:
    """Return the document of an API that is mounted at a path."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    paths: dict[str, Any] = {}
    for read in READS:
        names = re.findall(r"\{(\w+)\}", read.path)
        parameters = [{"name": name, "in": "path", "required": True, "schema": _PATH[name]} for name in names]
        parameters += [_query(param) for param in read.params]
        answer = {"description": read.about, "content": {"application/json": {"schema": _schema(read.shape, schemas)}}}
        paths[f"/api{read.path}"] = {
            "get": {
                "operationId": f"get{read.path}".replace("/", "_").replace("{", "").replace("}", ""),
                "summary": read.about,
                "parameters": parameters,
                "responses": {"200": answer, **_errors(_ERRORS)},
            }
        }
    result = _schema(Result, schemas)
    for action in ACTIONS.values():
        params = (*action.params, DRY_RUN)
        body: dict[str, Any] = {
            "type": "object",
            "additionalProperties": False,
            "required": [param.name for param in params if param.required],
            "properties": {param.name: {**param.schema(), "description": param.about} for param in params},
        }
        if any(param.name == "all" for param in params):
            # Everything is only meant when it is said.
            everything = {"required": ["all"], "properties": {"all": {"const": True}}}
            body["anyOf"] = [*({"required": [param.name]} for param in FILTERS), everything]
        content = {"application/json": {"schema": result}}
        paths[f"/api/actions/{action.name}"] = {
            "post": {
                "operationId": f"action_{action.name}",
                "summary": action.title,
                "description": action.about,
                "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
                "responses": {
                    "200": {"description": "what was done, or would be", "content": content},
                    "202": {"description": "it goes on in the background", "content": content},
                    **_errors(_ACTING),
                },
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidings",
            "version": __version__,
            "description": "What is published, waiting, failing and blocked, and putting it right.",
        },
        "servers": [{"url": base or "/"}],
        "security": [{"bearer": []}, {"basic": []}, {}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}, "basic": {"type": "http", "scheme": "basic"}},
        },
    }


def _query(param: Param) -> dict[str, Any]:
    return {"name": param.name, "in": "query", "required": param.required, "description": param.about, "schema": param.schema()}


def _errors(errors: dict[int, str]) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {str(status): {"description": about, "content": content} for status, about in errors.items()}


def _schema(shape: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a type; those of named tuples are put among the document's schemas."""
    origin = get_origin(shape)
    if origin in (Union, UnionType):
        return {"anyOf": [_schema(part, schemas) for part in get_args(shape)]}
    if origin in (list, tuple):
        return {"type": "array", "items": _schema(get_args(shape)[0], schemas)}
    if origin is dict or shape is Any:
        return {"type": "object"} if origin is dict else {}
    if hasattr(shape, "_fields"):
        if shape.__name__ not in schemas:
            made: dict[str, Any] = {"type": "object", "description": (shape.__doc__ or "").partition("\n")[0]}
            schemas[shape.__name__] = made
            hints = get_type_hints(shape)
            made["properties"] = {name: _schema(hints[name], schemas) for name in shape._fields}
            if isinstance(getattr(shape, "label", None), property):
                made["properties"]["label"] = {"type": "string"}
            made["required"] = list(made["properties"])
        return {"$ref": f"#/components/schemas/{shape.__name__}"}
    plain = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
    return {"type": "string", "format": "date-time"} if shape is datetime else {"type": plain.get(shape, "string")}
