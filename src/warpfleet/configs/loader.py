"""Reads a YAML file into a pydantic model. What is wrong with it becomes one line: where, which key, the remedy."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from warpfleet.core.errors import InputError

M = TypeVar("M", bound=BaseModel)
KeyPath = tuple[str | int, ...]

MAX_FILE_BYTES = 4 * 1024 * 1024  # ten thousand nodes take about one and a half
MAX_DEPTH = 32  # the deepest of our models has six levels
MAX_VALUES = 500_000  # with aliases expanded: a few hundred bytes of YAML can stand for billions of values
MAX_MESSAGE_CHARS = 500  # a key may be as long as the file

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_NOT_TEXT = {bool: "a truth value", int: "a number", float: "a number"}


def load(path: Path, model: type[M]) -> M:
    """The file at `path` as a `model`. InputError (one line) for whatever is wrong with it."""
    document = _Document(path)
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        details = error.errors(include_url=False)
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    first = min(details, key=lambda detail: (detail["type"] == "missing", document.line(detail["loc"])))
    raise InputError(_printable(document.describe(first, model)) + more)


def error_at(path: KeyPath, message: str) -> ValidationError:
    """For a validator of a whole model to raise: the error belongs to the key at `path`, counted from that model."""
    kind = PydanticCustomError("located", "{message}", {"message": message})
    return ValidationError.from_exception_data("located", [InitErrorDetails(type=kind, loc=path, input=None)])


def key_text(path: KeyPath) -> str:
    """`("nodes", 0, "name")` as `nodes[0].name`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


class _Document:
    """One parsed YAML file: its value, and the line of every key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[KeyPath, int] = {(): 1}
        self._constructor = yaml.constructor.SafeConstructor()
        text = _read(path)
        try:
            self._check_depth(text)
            root = yaml.compose(text, Loader=_Loader)
            if root is None:
                raise self._error(1, "the file is empty; write at least the required keys")
            self.value = self._construct(root, ())
        except yaml.MarkedYAMLError as error:
            problem = error.problem or error.context or "malformed"
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise self._error(line, f"not valid YAML: {problem}; check indentation, quotes and brackets") from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise self._error(line, "a control character that YAML forbids; remove it") from None

    def line(self, path: KeyPath) -> int:
        """The line of the key at `path`, or of the nearest thing around it that is in the file."""
        return self._lines[self._present(path)]

    def describe(self, detail: ErrorDetails, model: type[BaseModel]) -> str:
        """One pydantic error as one line."""
        path = detail["loc"]
        present = self._present(path)
        where = f"{self._path}:{self._lines[present]}:"
        if detail["type"] == "extra_forbidden":
            return f"{where} unknown key '{present[-1]}' {_within(present[:-1])}; {_suggest(present, model)}"
        if detail["type"] == "missing":
            return f"{where} missing key '{path[-1]}' {_within(present)}; add it"
        return f"{where} {key_text(present) or 'the file'}: {_message(detail)}"

    def _present(self, path: KeyPath) -> KeyPath:
        """`path` without what pydantic adds to it (names of union branches) and what the file does not have."""
        found: KeyPath = ()
        for part in path:
            if (*found, part) in self._lines:
                found = (*found, part)
        return found

    def _check_depth(self, text: str) -> None:
        """Before composing, which recurses: a deep nesting would end the process."""
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH and event.start_mark:
                raise self._error(event.start_mark.line + 1, f"nested deeper than {MAX_DEPTH} levels; flatten it")

    def _construct(self, node: yaml.Node, path: KeyPath) -> object:
        line = node.start_mark.line + 1
        self._lines.setdefault(path, line)
        if len(self._lines) > MAX_VALUES:
            raise self._error(line, f"more than {MAX_VALUES} values once aliases are expanded; use fewer aliases")
        if len(path) > MAX_DEPTH:
            raise self._error(line, "an alias stands within its own anchor; write the value out")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in _PLAIN_TAGS:
            raise self._error(line, f"{key_text(path)}: the tag {node.tag!r} is not supported; leave it out")
        if isinstance(node, yaml.MappingNode):
            return {key: self._construct(value, (*path, key)) for key, value in self._items(node, path)}
        return [self._construct(item, (*path, index)) for index, item in enumerate(node.value)]

    def _items(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, yaml.Node]]:
        first_lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(line, f"a key {_within(path)} is a list or a mapping; keys are plain words")
            name = str(key.value)
            if name in first_lines:
                said = f"it is already on line {first_lines[name]}; remove one of them"
                raise self._error(line, f"duplicate key '{name}' {_within(path)}: {said}")
            first_lines[name] = self._lines[(*path, name)] = line
            yield name, value

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> object:
        try:
            return self._constructor.construct_object(node)
        except (ValueError, OverflowError):
            line = node.start_mark.line + 1
            raise self._error(line, f"{key_text(path)}: not a valid number or date; quote it if it is text") from None

    def _error(self, line: int, message: str) -> InputError:
        return InputError(_printable(f"{self._path}:{line}: {message}"))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise InputError(f"{path}: {reason}; give the path of a readable YAML file") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{path}: larger than {MAX_FILE_BYTES} bytes; split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None


def _printable(message: str) -> str:
    """One line without control characters: keys come from the file, and a quoted YAML string may hold anything."""
    return "".join(char if char.isprintable() else " " for char in message)[:MAX_MESSAGE_CHARS]


def _within(path: KeyPath) -> str:
    return f"in {key_text(path)}" if path else "at the top level"


def _message(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message.replace("Input should be", "should be", 1).replace("valid tuple", "list")
    if detail["type"] in ("model_type", "model_attributes_type"):
        return "should be a mapping of keys to values"
    if detail["type"] == "string_type" and type(detail["input"]) in _NOT_TEXT:
        message += f", and YAML reads this as {_NOT_TEXT[type(detail['input'])]}: quote it"
    return " ".join(message.split())


def _suggest(path: KeyPath, model: type[BaseModel]) -> str:
    keys = _valid_keys(path[:-1], model)
    near = difflib.get_close_matches(str(path[-1]), keys, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    return "valid keys are " + ", ".join(f"'{key}'" for key in keys)


def _valid_keys(path: KeyPath, model: type[BaseModel]) -> list[str]:
    """The keys of the models that may stand at `path`. A part that is no field is an index or a key of a mapping."""
    models = [model]
    for part in path:
        fields = [one.model_fields[part] for one in models if isinstance(part, str) and part in one.model_fields]
        if fields:
            models = [found for field in fields for found in _models_in(field.annotation)]
    return list(dict.fromkeys(key for one in models for key in _keys(one.model_fields)))


def _keys(fields: Mapping[str, Any]) -> Iterator[str]:
    return (field.alias or name for name, field in fields.items())


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
