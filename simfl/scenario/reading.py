"""Reading a YAML file into a Document: plain values, and the line of each."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any, Final

import yaml

from simfl.errors import ScenarioError
from simfl.scenario.document import Document, Path, Place
from simfl.scenario.yaml_format import ScenarioLoader

__all__ = ["parse_value", "read_document"]

_MAX_DEPTH: Final = 50
_MAX_VALUES: Final = 100_000
"""Aliases of aliases make large things of small files; no scenario is this large."""


def read_document(path: str | FilePath) -> Document:
    """Read a scenario file.

    Raises:
        ScenarioError: if it cannot be read, is not UTF-8, is not YAML, has a key twice, holds
            more than one document, or is not a mapping.
    """
    origin = str(path)
    reader = _Reader(_read_text(FilePath(path)), origin)
    if reader.root is None:
        raise ScenarioError([f"{origin}: is empty; `simfl schema` describes what goes in"])
    values = reader.read(reader.root, ())
    if not isinstance(values, dict):
        raise reader.error(reader.root, "is not a mapping of keys such as 'rounds: 100'")
    return Document(values, reader.places)


def parse_value(text: str, *, origin: str) -> Any:
    """Read a value as it stands to the right of a key.

    Raises:
        ScenarioError: if it is not YAML.
    """
    reader = _Reader(text, origin, has_lines=False)
    return None if reader.root is None else reader.read(reader.root, ())


def _read_text(path: FilePath) -> str:
    if path.is_dir():
        raise ScenarioError([f"{path}: is a folder; name a YAML file in it"])
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 text (byte 0x{error.object[error.start]:02x} at {error.start})"
        raise ScenarioError([f"{path}: {reason}; save it as UTF-8"]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ScenarioError([f"{path}: cannot be read: {reason}"]) from None


class _Reader:
    """Makes values of YAML nodes and notes the place of each."""

    def __init__(self, text: str, origin: str, *, has_lines: bool = True) -> None:
        self.origin = origin
        self.has_lines = has_lines
        self.places: dict[Path, Place] = {}
        self._open: set[int] = set()
        self._checked: set[int] = set()
        try:
            self._loader = ScenarioLoader(text)
            self.root = self._loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            raise self._yaml_error(error) from None
        except yaml.YAMLError as error:
            reason = str(error).partition("\n")[0]
            raise ScenarioError([f"{origin}: is not valid YAML: {reason}"]) from None
        except RecursionError:
            raise ScenarioError([f"{origin}: is nested too deeply"]) from None

    def read(self, node: yaml.Node, path: Path) -> Any:
        """Return the node's value."""
        self.places.setdefault(path, self._place(node))
        if len(path) > _MAX_DEPTH:
            raise self.error(node, "is nested too deeply")
        if len(self.places) > _MAX_VALUES:
            raise self.error(node, f"holds more than {_MAX_VALUES:,} values, aliases written out")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise self.error(node, "is an alias of something that holds this alias")
        self._open.add(id(node))
        value = self._collection(node, path)
        self._open.remove(id(node))
        return value

    def error(self, node: yaml.Node, reason: str) -> ScenarioError:
        """Make the error for a fault in the file's form."""
        return ScenarioError([f"{self._place(node)}: {reason}"])

    def _collection(self, node: yaml.Node, path: Path) -> Any:
        if isinstance(node, yaml.SequenceNode) and node.tag.endswith(":seq"):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag.endswith(":map"):
            return self._mapping(node, path)
        raise self.error(
            node, f"has the tag {node.tag!r}, which a scenario cannot hold; leave it out"
        )

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[Any, Any]:
        self._check_keys(node)
        values = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node)
            self.places[*path, key] = self._place(key_node)
            values[key] = self.read(value_node, (*path, key))
        return values

    def _check_keys(self, node: yaml.MappingNode) -> None:
        """Refuse a key that is there twice, then write out the merge keys (``<<``)."""
        if id(node) in self._checked:
            return
        self._checked.add(id(node))
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(key_node, "has a list or a mapping for a key; keys are text")
            key, line = self._key(key_node), key_node.start_mark.line + 1
            if key in lines:
                both = f"lines {lines[key]} and {line}"
                raise self.error(key_node, f"the key {key!r} is there twice, in {both}; keep one")
            lines[key] = line
        try:
            self._loader.flatten_mapping(node)
        except yaml.MarkedYAMLError as error:
            raise self._yaml_error(error) from None

    def _key(self, node: yaml.ScalarNode) -> Any:
        return "<<" if node.tag == "tag:yaml.org,2002:merge" else self._scalar(node)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag.rpartition(":")[2] not in ("str", "int", "float", "bool", "null", "value"):
            raise self.error(node, f"has the tag {node.tag!r}, which a scenario cannot hold")
        try:
            return self._loader.construct_object(node)
        # PyYAML passes on whatever Python raises on "!!int x", or on an integer of 5,000 digits.
        except Exception as error:
            what = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise self.error(node, f"{node.value[:40]!r} cannot be read ({what})") from None

    def _place(self, at: yaml.Node | yaml.Mark | None) -> Place:
        mark = at.start_mark if isinstance(at, yaml.Node) else at
        return Place(self.origin, mark.line + 1 if mark and self.has_lines else 0)

    def _yaml_error(self, error: yaml.MarkedYAMLError) -> ScenarioError:
        place = self._place(error.problem_mark or error.context_mark)
        if error.context == "expected a single document in the stream":
            return ScenarioError([f"{place}: a second document begins here; a scenario is one"])
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        return ScenarioError([f"{place}: is not valid YAML: {reason}"])
