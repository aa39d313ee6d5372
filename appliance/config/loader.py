"""From a TOML file to a `Config`, or to every error in it.

msgspec stops at the first error; an operator wants all of them in one go. So the loader walks the structs
itself and lets msgspec judge each value alone.
"""

import difflib
import json
import os
import re
import tomllib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import msgspec

from appliance.config.checks import check
from appliance.config.environment import names_by_key, overrides
from appliance.config.model import Config, Section
from appliance.domain.errors import ConfigError

_MISSING = "nothing"


@dataclass(frozen=True, slots=True)
class Problem:
    """One error: where (`engine.builders[0].url`), what was found there and what is expected."""

    path: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.path}: found {self.found}, expected {self.expected}"


class InvalidConfigError(ConfigError):
    """The file has errors; ``problems`` has all of them and the text is one line for each."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def load(path: Path) -> Config:
    """Read and check a file, with what the environment says instead. Relative paths are taken from the file's folder.

    Raises ConfigError when it cannot be read or is not TOML, InvalidConfigError with all problems otherwise.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    try:
        return loads(text, folder=path.parent, environ=os.environ)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, lists in lists: tomllib lets them through
        raise ConfigError(f"{path}: not TOML that can be read: {error}") from error


def loads(text: str, *, folder: Path, environ: Mapping[str, str] = types.MappingProxyType({})) -> Config:
    """Check the text of a configuration file. Raises tomllib.TOMLDecodeError or InvalidConfigError."""
    data = tomllib.loads(text)
    problems = _take_environment(data, environ)
    problems += [_by_variable(problem, environ) for problem in _struct_problems(Config, data, "")]
    if problems:
        raise InvalidConfigError(problems)
    config = msgspec.convert(_with_absolute_paths(Config, data, folder), Config)
    problems = [_by_variable(Problem(*row), environ) for row in check(config)]
    if problems:
        raise InvalidConfigError(problems)
    return config


def _take_environment(data: dict[str, Any], environ: Mapping[str, str]) -> list[Problem]:
    """Put what the environment says into the section `[lb]`, where there is one."""
    section = data.get("lb")
    if not isinstance(section, dict):
        return []
    values, problems = overrides(environ)
    section.update(values)
    return [Problem(*row) for row in problems]


def _by_variable(problem: Problem, environ: Mapping[str, str]) -> Problem:
    """A value of the environment's is named by its variable: there it has to be mended."""
    for key, name in names_by_key(environ).items():
        if problem.path == f"lb.{key}" or problem.path.startswith(f"lb.{key}["):
            return Problem(f"environment variable {name} ({problem.path})", problem.found, problem.expected)
    return problem


def _struct_problems(struct: type[Section], data: object, path: str) -> Iterator[Problem]:
    if not isinstance(data, dict):
        yield Problem(path or "file", _show(data), "a table")
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for key in data:
        if key in fields:
            continue
        yield Problem(_join(path, key), "an unknown key", _known_keys(key, list(fields)))
    for key, field in fields.items():
        if key in data:
            yield from _value_problems(field.type, data[key], _join(path, key))
        elif field.required or (key in struct.required_unless and struct.required_unless[key] not in data):
            yield Problem(_join(path, key), _MISSING, _expected(field.type, _join(path, key)))


def _value_problems(kind: Any, value: object, path: str) -> Iterator[Problem]:
    struct, is_list = _struct_of(kind)
    if struct is None:
        yield from _scalar_problems(kind, value, path)
    elif not is_list:
        yield from _struct_problems(struct, value, path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _struct_problems(struct, item, f"{path}[{index}]")
    else:
        yield Problem(path, _show(value), f"a list of tables: [[{_section(path)}]]")


def _scalar_problems(kind: Any, value: object, path: str) -> Iterator[Problem]:
    if isinstance(value, list) and get_origin(kind) is tuple:
        for index, item in enumerate(value):
            yield from _scalar_problems(get_args(kind)[0], item, f"{path}[{index}]")
        return
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        yield Problem(path, _hidden(value) if _is_secret(kind) else _show(value), _expected(kind))


def _is_secret(kind: Any) -> bool:
    meta = _meta(kind)
    return meta is not None and bool((meta.extra or {}).get("secret"))


def _hidden(value: object) -> str:
    """What may hold a key is not printed, even where it is wrong."""
    return f"a text of {len(value)} characters that is not shown" if isinstance(value, str) else _show(value)


def _struct_of(kind: Any) -> tuple[type[Section] | None, bool]:
    """The section type behind `X`, `X | None` or `tuple[X, ...]`, and whether it is a list of them."""
    candidates = get_args(kind) if get_origin(kind) in (Union, types.UnionType, tuple) else (kind,)
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate, get_origin(kind) is tuple
    return None, False


def _meta(kind: Any) -> msgspec.Meta | None:
    """The constraint on a type, also behind `X | None`."""
    if get_origin(kind) is Annotated:
        return next((item for item in kind.__metadata__ if isinstance(item, msgspec.Meta)), None)
    if get_origin(kind) in (Union, types.UnionType):
        return next((meta for meta in map(_meta, get_args(kind)) if meta), None)
    return None


def _expected(kind: Any, path: str = "") -> str:
    struct, is_list = _struct_of(kind)
    if struct is not None:
        return f"at least one [[{_section(path)}]]" if is_list else f"a section [{_section(path)}]"
    meta = _meta(kind)
    if meta is not None and meta.description:
        return meta.description
    if get_origin(kind) is Literal:
        return " or ".join(json.dumps(choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list, each item {_expected(get_args(kind)[0])}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]


def _section(path: str) -> str:
    """As its headline in the file names it: without the numbers of lists."""
    return re.sub(r"\[[0-9]+\]", "", path)


def _known_keys(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"{close[0]!r}?"
    return "one of " + ", ".join(known)


def _show(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _with_absolute_paths(struct: type[Section], data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same table with each path made absolute, so that no plane depends on the working directory."""
    result = dict(data)
    for field in msgspec.structs.fields(struct):
        if field.encode_name in data:
            result[field.encode_name] = _absolute(field.type, data[field.encode_name], folder)
    return result


def _absolute(kind: Any, value: Any, folder: Path) -> Any:
    inner, is_list = _struct_of(kind)
    if inner is not None:
        items = value if is_list else [value]
        tables = [_with_absolute_paths(inner, cast("dict[str, Any]", item), folder) for item in items]
        return tables if is_list else tables[0]
    meta = _meta(kind)
    if meta is not None and (meta.extra or {}).get("path"):
        return str((folder / value).absolute())
    return value
