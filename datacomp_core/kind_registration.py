"""Registers models by `kind`, with a decorator, and defines the field type that accepts any registered kind. The kind is
stated once, in the decorator. A field of type `Annotated[Filter, OfRegistry(FILTERS)]` accepts every kind that is registered
when it is read; its JSON schema, and so the form, lists every kind that is registered when it is drawn.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, validate_call
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticKnownError, core_schema

from datacomp_core import external_code
from datacomp_core.errors import SpecError, unknown
from datacomp_core.input_classes import FETCHABLE, InputUse, classify_file
from datacomp_core.registry import Registry
from datacomp_core.store.fingerprint import PINNED_FILE

M = TypeVar("M", bound=type[BaseModel])
R = TypeVar("R")
CODE = "code"
TAGS = frozenset({"kind", CODE})
"""Fields that the decorator adds; they are not parameters."""


class ControlFilter(StrEnum):
    """Kinds of the filters that do not judge pairs. The board recognises baselines and controls by them."""

    EVERYTHING = "everything"
    RANDOM = "random"


class Kinded(BaseModel):
    """Base of models with a kind. Instances of classes from single files are pickled with their file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    pins_files: ClassVar[bool] = True
    """A file in a field is identified by its content, not by its path (store/fingerprint.py)."""

    def __reduce__(self) -> Any:
        return external_code.pickled(self) or super().__reduce__()

    def __reduce_ex__(self, protocol: Any, /) -> Any:
        return external_code.pickled(self) or super().__reduce_ex__(protocol)

    @classmethod
    def uses(cls, given: Mapping[str, Any]) -> Iterator[InputUse]:
        """Return what it reads beyond the released data, by its parameters as plain data; by default the files it names."""
        for name, value in given.items():
            if isinstance(value, str) and (PINNED_FILE.fullmatch(value) or value.startswith(FETCHABLE)):
                yield classify_file(value, f"{name} of {given.get('kind', cls.__name__)}:")

    @classmethod
    def parameters(cls) -> dict[str, FieldInfo]:
        """The fields that a person sets."""
        return {name: field for name, field in cls.model_fields.items() if name not in TAGS}


def registers(registry: Registry[Any], kind: str) -> Callable[[M], M]:
    """Decorator that gives a model its kind (and, if it comes from outside, the identity of its code) and registers it."""

    def decorate(model: M) -> M:
        _require_whole(registry, kind, model)
        fields: dict[str, FieldInfo] = dict(model.__pydantic_fields__)
        tags = {"kind": _tag(kind)}
        if code := external_code.code_of(model.__module__):
            tags[CODE] = _field(str, default=code, description="The code that this kind comes from; filled in by itself.")
        model.__pydantic_fields__ = {**tags, **{name: field for name, field in fields.items() if name not in tags}}  # pyright: ignore[reportAttributeAccessIssue]
        model.model_rebuild(force=True)
        registry.add(kind, model, model.__module__)
        return model

    return decorate


def _require_whole(registry: Registry[Any], kind: str, model: Any) -> None:
    """SpecError for an unusable class: of the wrong type, or without a required method."""
    noun = registry.noun.removesuffix(" kind")
    if not (isinstance(model, type) and issubclass(model, Kinded)):
        raise SpecError(
            f"@register({kind!r}) decorates something that is not a {noun}: extend a class of datacomp_core.{noun}s.base."
        )
    if missing := sorted(model.__abstractmethods__):
        raise SpecError(f"The {noun} {kind!r} lacks {' and '.join(missing)}: write that method.")


def _tag(kind: str) -> FieldInfo:
    """Its only value, which a form shows as a locked choice."""
    return _field(Literal[kind], default=kind, json_schema_extra={"enum": [kind]})  # pyright: ignore[reportInvalidTypeForm]


def _field(annotation: Any, **given: Any) -> FieldInfo:
    made: Any = Field(**given)
    made.annotation = annotation
    return made


def first_line(model: type[Any]) -> str:
    """Return the first line of a model's docstring."""
    return (model.__doc__ or "").strip().partition("\n")[0]


class OfRegistry:
    """Annotation of a field: a model of any kind in a registry. `leaves` says which kinds are allowed here."""

    def __init__(self, registry: Registry[Any], allowed: Callable[[type[Any]], bool] = lambda _: True) -> None:
        self.registry, self.allowed = registry, allowed

    def kinds(self) -> dict[str, type[BaseModel]]:
        return {kind: model for kind, model in self.registry.items() if self.allowed(model)}

    def read(self, value: Any) -> Any:
        if isinstance(value, BaseModel):
            if type(value) in self.kinds().values() or self._is_of_code(value):
                return value
            value = value.model_dump()
        if not isinstance(value, dict):
            raise PydanticKnownError("model_type", {"class_name": self.registry.noun.removesuffix(" kind")})
        if "kind" not in value:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": "'kind'"})
        kind, model = str(value["kind"]), None
        if code := value.get(CODE):
            try:
                model = _of_code(self.registry, kind, str(code))
            except SpecError as problem:
                raise PydanticCustomError("value_error", "{error}", {"error": problem}) from problem
        known = self.kinds() if model is None or not self.allowed(model) else {kind: model}
        if kind not in known:
            tags: dict[str, Any] = {"discriminator": "'kind'", "tag": kind, "expected_tags": ", ".join(sorted(known))}
            raise PydanticKnownError("union_tag_invalid", tags)
        try:
            return known[kind].model_validate(value)
        except ValidationError as problem:
            raise ValidationError.from_exception_data(problem.title, [_below(kind, one) for one in problem.errors()]) from None

    def _is_of_code(self, value: BaseModel) -> bool:
        """Return whether its foreign class has been replaced by other code of the same name."""
        code, kind = getattr(value, CODE, ""), str(getattr(value, "kind", ""))
        return bool(code) and self.registry.of_code(kind, code) is type(value) and self.allowed(type(value))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def dumped(value: Any, info: core_schema.SerializationInfo) -> Any:
            return value.model_dump(mode=info.mode, exclude_defaults=info.exclude_defaults)

        return core_schema.no_info_plain_validator_function(
            self.read, serialization=core_schema.plain_serializer_function_ser_schema(dumped, info_arg=True)
        )

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        choices: dict[Any, core_schema.CoreSchema] = {
            kind: model.__pydantic_core_schema__ for kind, model in self.kinds().items()
        }
        return dict(handler(core_schema.tagged_union_schema(choices, discriminator="kind")))


def _of_code(registry: Registry[Any], kind: str, code: str) -> Any:
    """Return the model that foreign code of this identity registered; load the code if needed. None if it registers no such
    kind."""
    found: Any = registry.of_code(kind, code)
    if found is None:
        external_code.require(code)
        found = registry.of_code(kind, code)
    return found


def _below(kind: str, problem: Any) -> InitErrorDetails:
    """The same fault, one level further out."""
    what: Any = problem["type"]
    context = problem.get("ctx", {})
    if isinstance(context.get("error"), Exception):
        what = PydanticCustomError("value_error", "{error}", {"error": context["error"]})
        context = {}
    return InitErrorDetails(type=what, loc=(kind, *problem["loc"]), input=problem["input"], ctx=context)


def parse_kind(registry: Registry[Any], text: str) -> Any:
    """Return the model of `kind` or `kind:parameter=value,...`; None for a name without parameters that is not a kind.
    SpecError if it is wrong. A value that contains a comma needs double quotes.
    """
    kind, colon, given = text.partition(":")
    values = parse_parameters(given, text) if colon else {}
    model: Any = _of_code(registry, kind, code) if (code := values.get(CODE)) else None
    if model is None and kind not in registry:
        if colon:
            registry.find(kind)
        return None
    model = model or registry[kind]
    known = model.parameters()
    for name in values:
        if name not in known and name != CODE:
            raise unknown(f"parameter of {registry.noun} {kind}", name, known)
    try:
        return model.model_validate(values)
    except ValidationError as problem:
        where, given, why = first_fault(problem)
        raise SpecError(f"{registry.noun.capitalize()} {text.rstrip(':')!r}: {where}: {why} (given: {given!r}).") from problem


def first_fault(problem: ValidationError) -> tuple[str, Any, str]:
    """Return the place of the first fault, the given value, and what is wrong with it. Our own SpecErrors are raised
    unchanged."""
    first = problem.errors()[0]
    if isinstance(cause := first.get("ctx", {}).get("error"), SpecError):
        raise cause from problem
    return ".".join(str(part) for part in first["loc"]), first["input"], first["msg"]


def parse_parameters(given: str, whole: str) -> dict[str, str]:
    """Parse `a=1,b="x,y"` into a mapping. SpecError names the invalid piece."""
    found: dict[str, str] = {}
    for item in _pieces(given):
        name, equals, value = item.partition("=")
        if not equals:
            raise SpecError(f"{item!r} in {whole!r} is not parameter=value.")
        value = value.strip()
        found[name.strip()] = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    return found


def call_with_text(build: Callable[..., R], noun: str, name: str, text: str, example: str) -> R:
    """Call a function with the parameters of `text`, `name:a=1,b=2`. SpecError, in one sentence, if they are wrong. `example`
    is the message's value for a missing parameter.
    """
    values, known = parse_parameters(text.partition(":")[2], text), inspect.signature(build).parameters
    for parameter in values:
        if parameter not in known:
            raise unknown(f"parameter of {noun} {name}", parameter, known)
    if missing := [one for one, found in known.items() if found.default is found.empty and one not in values]:
        raise SpecError(f"The {noun} {name} needs {' and '.join(missing)}: write {name}:{missing[0]}={example}")
    try:
        return validate_call(build)(**values)
    except ValidationError as problem:
        where, wrong, why = first_fault(problem)
        raise SpecError(f"{noun.capitalize()} {text!r}: {where} is {wrong!r}: {why}.") from problem


def _pieces(given: str) -> list[str]:
    pieces, quoted = [""], False
    for letter in given:
        quoted ^= letter == '"'
        if letter == "," and not quoted:
            pieces.append("")
        else:
            pieces[-1] += letter
    return [piece for piece in pieces if piece.strip()]


def parameter_text(value: Any) -> str:
    """A parameter's value as `pairs` reads it."""
    text = repr(value) if isinstance(value, float) else str(value)
    return f'"{text}"' if "," in text else text
