"""YAML file and command line to a checked `Config`, and back to YAML.

Every refusal is one line that names the key, what it was given and what it takes. Nothing here imports torch, so that `--help` and a
refusal are quick.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
import sys
import types
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, cast, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from .config import Config, DataConfig

_GROUPS: dict[str, type[Any]] = get_type_hints(Config)
_TYPES: dict[str, Any] = {
    f"{group}.{name}": hint for group, cls in _GROUPS.items() for name, hint in get_type_hints(cls).items()
}
_OPTIONS = ("config", "dry_run", "print_config", "help")
_FLOAT = re.compile(
    r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


class _Loader(yaml.SafeLoader):
    """Scalars as in YAML 1.2: `1e-4` is a number and `no` is a word. A key given twice is an error."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  the base class's own name

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            names = [key.value for key, _ in node.value]
            twice = next(name for name in names if names.count(name) > 1)
            raise yaml.constructor.ConstructorError(
                None, None, f"key {twice!r} is given twice", node.start_mark
            )
        return mapping


class _Dumper(yaml.SafeDumper):
    """Quotes every string that either YAML 1.1 or `_Loader` would read as something else."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][\d_]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def load_config(argv: Sequence[str] | None = None, prog: str | None = None) -> tuple[Config, bool]:
    """Builds the configuration from `--config FILE.yaml` and `--GROUP.KEY VALUE` flags.

    Flags go before the file wherever they stand; of two files the later goes before the earlier. `--print_config` prints the
    result as YAML and exits with 0.

    Args:
        argv: The arguments, by default those of the process.
        prog: The program's name in messages, by default that of the process.

    Returns:
        The configuration, and whether `--dry_run` was given.

    Raises:
        SystemExit: With code 2 after one line on standard error, if anything is unknown, mistyped or impossible.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # jsonargparse treats this flag as its own, which would print before the values are checked.
    print_config = "--print_config" in arguments
    arguments = [argument for argument in arguments if argument != "--print_config"]
    parser = _parser(prog)
    try:
        values, flags = _values(parser, arguments)
        config = _build(values)
    except ValueError as error:
        _refuse(parser.prog, str(error))
    if print_config:
        sys.stdout.write(config_to_yaml(config))
        raise SystemExit(0)
    return config, flags.dry_run


def load_data_config(argv: Sequence[str], prog: str) -> DataConfig:
    """Builds the `data` group alone from `--config FILE.yaml` and `--data.KEY VALUE` flags, for commands that only look at images.

    Args:
        argv: The arguments.
        prog: The program's name in messages.

    Raises:
        SystemExit: As in `load_config`.
    """
    parser = _parser(prog)
    try:
        values, _ = _values(parser, list(argv))
        return cast(DataConfig, _build_group("data", values))
    except ValueError as error:
        _refuse(prog, str(error))


def _values(parser: ArgumentParser, arguments: list[str]) -> tuple[Namespace, Namespace]:
    """Every value by its dotted key, and the flags alone."""
    for argument in arguments:
        if argument.startswith("--"):
            check_key(argument[2:].partition("=")[0], [*_TYPES, *_OPTIONS])
    flags = _parse(parser, arguments)
    values: dict[str, Any] = {}
    for path in flags.config or ():
        values |= _parsed(Path(path), _flatten)
    # The files first and then the flags again on top of them: the order on the command line does not matter.
    return _parse(parser, arguments, _parse(parser, values)), flags


def config_to_yaml(config: Config) -> str:
    """Writes every value of `config` as YAML, from which `config_from_yaml` rebuilds an equal one."""
    return yaml.dump(config.to_dict(), Dumper=_Dumper, sort_keys=False)


def config_from_yaml(text: str) -> Config:
    """Builds the configuration that a YAML text describes; keys it lacks keep their defaults.

    Raises:
        ValueError: In one line, if the text is not YAML, or a key or value is refused.
    """
    return _build(_parse(_parser(None), _flatten(text)))


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Builds the configuration with other values of some keys, such as `{"loss.kl": 1e-3}`.

    Raises:
        ValueError: In one line, if a key or value is refused.
    """
    tree = config.to_dict()
    for key, value in values.items():
        check_key(key)
        group, _, name = key.partition(".")
        tree[group][name] = value
    # JSON is YAML
    return config_from_yaml(json.dumps(tree))


@cache
def _parser(prog: str | None) -> ArgumentParser:
    parser = ArgumentParser(
        prog=prog,
        usage="%(prog)s [--config FILE.yaml] [--GROUP.KEY VALUE ...] [--dry_run] [--print_config]",
        description="Flags go before the file. Lists are written [1,2], none is null.",
        exit_on_error=False,
        allow_abbrev=False,
        default_env=False,
    )
    parser.add_argument(
        "--config", action="append", type=str, metavar="FILE.yaml", help="Read keys from this file."
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="Build all, take two steps, save, load, sample, and report."
    )
    parser.add_argument(
        "--print_config", action="store_true", help="Print the resulting configuration as YAML and exit."
    )
    for group, cls in _GROUPS.items():
        section = parser.add_argument_group(group, (cls.__doc__ or "").partition("\n")[0])
        section.add_class_arguments(cls, group, as_group=False)
    return parser


def _parse(
    parser: ArgumentParser, given: list[str] | dict[str, Any], base: Namespace | None = None
) -> Namespace:
    """Converts flags, or flat values, to their types, on top of `base`."""
    try:
        if isinstance(given, list):
            return parser.parse_args(given, namespace=base)
        values = parser.parse_object(given)
    except ArgumentError as error:
        message = str(error)
        key = re.match(r'Parser key "([^"]+)"', message)
        value = re.search(r".*(?:Got|Given) value: (.*)", message, re.DOTALL)
        if key and key[1] in _TYPES and value:
            message = _mismatch(key[1], value[1])
        raise ValueError(message) from None
    for name, text in given.items():
        # The parser reads a text that may be null once more, as if it came from the command line.
        if isinstance(text, str) and str in get_args(_TYPES[name]):
            values[name] = text
    return values


def _build(values: Namespace) -> Config:
    return Config(**{group: _build_group(group, values) for group in _GROUPS})


def _build_group(group: str, values: Namespace) -> Any:
    cls = _GROUPS[group]
    arguments = {field.name: values[f"{group}.{field.name}"] for field in fields(cls)}
    for name, value in arguments.items():
        # The parser lets null through whatever the type, and infinity as a number.
        refused = value is None and type(None) not in get_args(_TYPES[f"{group}.{name}"])
        numbers = value if isinstance(value, tuple) else (value,)
        if refused or any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ValueError(_mismatch(f"{group}.{name}", "null" if refused else value))
    try:
        return cls(**arguments)
    except ValueError as error:
        # A class that serves two groups does not know for which one it is built.
        prefix = "" if str(error).startswith(f"{group}.") else f"{group}."
        raise ValueError(f"{prefix}{error}") from None


def _flatten(text: str) -> dict[str, Any]:
    """YAML to one dict of dotted keys, each of which exists."""
    try:
        tree = load_yaml(text)
        if not isinstance(tree, Mapping):
            raise ValueError(f"expected groups of keys as in 'train: {{seed: 1}}', got {_short(tree)}")
        values: dict[str, Any] = {}
        for key, value in _leaves(tree, ""):
            check_key(key)
            if key in values:
                raise ValueError(f"key {key!r} is given twice")
            values[key] = value
        return values
    except RecursionError:
        raise ValueError("not a config: nested too deeply") from None


def load_yaml(text: str) -> Any:
    """The values of a YAML text, plain ones alone.

    Raises:
        ValueError: One line: it is not YAML, or a value does not fit its tag.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"not valid YAML{where}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from None
    except (ValueError, LookupError, AttributeError):
        # What PyYAML's own constructors raise, as for `!!int word` or `!!bool word`.
        raise ValueError("not valid YAML: a value does not fit its tag") from None


def read_yaml(path: Path) -> Any:
    """The values of a YAML file, as `load_yaml`.

    Raises:
        ValueError: One line that names the file: it cannot be read, or it is not YAML.
    """
    return _parsed(path, load_yaml)


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    """What `parse` makes of a file's text, the file named where it cannot be read or is refused."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _leaves(tree: Mapping[Any, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_key(key: str, known: Collection[str] = _TYPES) -> None:
    """Refuses a key that is not `known`, by default one that no configuration has.

    Raises:
        ValueError: In one line, with the key that is most alike.
    """
    if key in known:
        return
    if key in _GROUPS:
        raise ValueError(
            f"{key!r} is a group, give its keys one by one: {', '.join(k for k in known if k.startswith(key + '.'))}"
        )
    raise ValueError(f"unknown key {_short(key)}, did you mean {_nearest(key, known)!r}?")


def _nearest(key: str, known: Collection[str]) -> str:
    """The known key that is most alike, whole and without its group: a flat `seed` finds `train.seed`."""

    def likeness(other: str) -> float:
        leaf = SequenceMatcher(None, key.rpartition(".")[2], other.rpartition(".")[2]).ratio()
        return leaf + SequenceMatcher(None, key, other).ratio()

    return max(known, key=likeness)


def _mismatch(key: str, value: object) -> str:
    return f"{key} must be {_describe(_TYPES[key])}, got {value if isinstance(value, str) else _short(value)}"


def _describe(hint: Any) -> str:
    plain = {
        int: "an integer",
        float: "a finite number",
        bool: "true or false",
        str: "text",
        type(None): "null",
    }
    if hint in plain:
        return plain[hint]
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return f"one of {', '.join(arguments)}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe(argument) for argument in arguments)
    return {
        int: "a list of integers as in [1,2]",
        float: "a list of finite numbers as in [1,2]",
        str: "a list of texts as in [a,b]",
    }[arguments[0]]


def _short(value: object) -> str:
    return _REPR.repr(value)


def _refuse(prog: str, message: str) -> NoReturn:
    sys.stderr.write(f"{prog}: error: {' '.join(message.split())}\n")
    raise SystemExit(2)
