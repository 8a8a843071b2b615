"""Read a YAML file into a Document: plain values, and the line of each."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any, Final, TypeAlias

import yaml

from simfl.errors import ScenarioError
from simfl.regular_files import read_regular
from simfl.scenario.document import Document, Path, Place, fault_at, show
from simfl.scenario.yaml_format import TWO_WAYS_TAG, ScenarioLoader, TooLargeError

_MAX_DEPTH: Final = 50
_MAX_VALUES: Final = 100_000
"""Nested aliases can expand a small file into a huge value; no scenario is this large."""
_MAX_BYTES: Final = 1 << 22
_TOO_DEEP: Final = "is nested too deeply"
_TOO_MANY: Final = f"has more than {_MAX_VALUES:,} values, with aliases expanded"
_MERGE: Final = "<<"
_MERGE_TAG: Final = "tag:yaml.org,2002:merge"

_Entries: TypeAlias = "dict[Any, tuple[yaml.ScalarNode, yaml.Node]]"
"""The nodes of key and value, by key."""


def read_document(path: str | FilePath) -> Document:
    """Read a scenario file.

    Raises:
        ScenarioError: if it cannot be read, is not UTF-8, is not YAML, has a key twice, holds
            more than one document, or is not a mapping.
    """
    origin = str(path)
    reader = _Reader(_read_text(FilePath(path)), origin)
    if reader.root is None:
        raise ScenarioError(
            [fault_at(Place(origin), "is empty; `simfl schema` describes what goes in")]
        )
    values = reader.read(reader.root, ())
    if not isinstance(values, dict):
        raise reader.error(reader.root, "is not a mapping of keys such as 'rounds: 100'")
    return Document(values, reader.places)


def parse_value(text: str, *, origin: str) -> Any:
    """Parse a YAML value, as written to the right of a key.

    Raises:
        ScenarioError: if it is not YAML.
    """
    reader = _Reader(text, origin, has_lines=False)
    return None if reader.root is None else reader.read(reader.root, ())


def _read_text(path: FilePath) -> str:
    if path.is_dir():
        raise ScenarioError([fault_at(Place(str(path)), "is a folder; name a YAML file in it")])
    try:
        return read_regular(path, limit=_MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 text (byte 0x{error.object[error.start]:02x} at {error.start})"
        raise ScenarioError([fault_at(Place(str(path)), f"{reason}; save it as UTF-8")]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ScenarioError([fault_at(Place(str(path)), f"cannot be read: {reason}")]) from None


class _Reader:
    """Converts YAML nodes to values, and records the place of each."""

    def __init__(self, text: str, origin: str, *, has_lines: bool = True) -> None:
        self.origin = origin
        self.has_lines = has_lines
        self.places: dict[Path, Place] = {}
        self._open: set[int] = set()
        self._merging: set[int] = set()
        self._entries: dict[int, _Entries] = {}
        try:
            self._loader = ScenarioLoader(text, max_nodes=_MAX_VALUES, max_depth=_MAX_DEPTH + 1)
            self.root = self._loader.get_single_node()
        except TooLargeError as error:
            what = _TOO_DEEP if error.is_too_deep else _TOO_MANY
            raise ScenarioError([fault_at(self._place(error.mark), what)]) from None
        except yaml.MarkedYAMLError as error:
            raise self._yaml_error(error) from None
        except yaml.YAMLError as error:
            reason = str(error).partition("\n")[0]
            raise ScenarioError([fault_at(Place(origin), f"is not valid YAML: {reason}")]) from None

    def read(self, node: yaml.Node, path: Path) -> Any:
        """Return the node's value."""
        self.places.setdefault(path, self._place(node))
        if len(path) > _MAX_DEPTH:
            raise self.error(node, _TOO_DEEP)
        if len(self.places) > _MAX_VALUES:
            raise self.error(node, _TOO_MANY)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise self.error(node, "is an alias of a value that contains this alias")
        self._open.add(id(node))
        value = self._collection(node, path)
        self._open.remove(id(node))
        return value

    def error(self, node: yaml.Node, reason: str) -> ScenarioError:
        """Return the error for a malformed node."""
        return ScenarioError([fault_at(self._place(node), reason)])

    def _collection(self, node: yaml.Node, path: Path) -> Any:
        if isinstance(node, yaml.SequenceNode) and node.tag.endswith(":seq"):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag.endswith(":map"):
            return self._mapping(node, path)
        raise self.error(node, f"has the tag {node.tag!r}, which a scenario cannot hold; remove it")

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[Any, Any]:
        values = {}
        for key, (key_node, value_node) in self._merged(node, depth=len(path)).items():
            self.places[*path, key] = self._place(key_node)
            values[key] = self.read(value_node, (*path, key))
        return values

    def _merged(self, node: yaml.MappingNode, *, depth: int) -> _Entries:
        """Return the entries by key, including those of merge keys (``<<``).

        A mapping's own entries take precedence over merged ones, and earlier merged ones over later
        ones. Each key occurs once, so that nested merges do not multiply the entries.
        """
        if id(node) in self._entries:
            return self._entries[id(node)]
        if depth > _MAX_DEPTH:
            raise self.error(node, _TOO_DEEP)
        own = self._own_entries(node)
        key_node, merged = own.get(_MERGE, (None, None))
        if key_node is not None and key_node.tag == _MERGE_TAG:
            del own[_MERGE]
        else:
            merged = None
        self._merging.add(id(node))
        entries: _Entries = {}
        for source in reversed(self._sources(merged)):
            entries |= self._merged(source, depth=depth + 1)
        self._merging.remove(id(node))
        self._entries[id(node)] = entries | own
        return self._entries[id(node)]

    def _own_entries(self, node: yaml.MappingNode) -> _Entries:
        entries: _Entries = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error(key_node, "has a list or a mapping for a key; keys are text")
            key = _MERGE if key_node.tag == _MERGE_TAG else self._scalar(key_node)
            if key in entries:
                lines = [n.start_mark.line + 1 for n in (entries[key][0], key_node)]
                both = f"lines {lines[0]} and {lines[1]}"
                raise self.error(key_node, f"the key {key!r} occurs twice, in {both}; keep one")
            entries[key] = (key_node, value_node)
        return entries

    def _sources(self, merged: yaml.Node | None) -> list[yaml.MappingNode]:
        """Return the mappings that a merge key names: one, or a list of them."""
        named: list[yaml.Node] = [] if merged is None else [merged]
        sources = []
        for source in merged.value if isinstance(merged, yaml.SequenceNode) else named:
            if not isinstance(source, yaml.MappingNode):
                raise self.error(source, "is merged with '<<', but is not a mapping")
            if id(source) in self._merging:
                raise self.error(source, "is an alias of a value that contains this alias")
            sources.append(source)
        return sources

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag == TWO_WAYS_TAG:
            value = show(node.value)
            raise self.error(
                node,
                f"{value} means different things in YAML 1.1 and YAML 1.2; quote it if it is text; "
                "write numbers as 10 or 0x1f, and true or false",
            )
        if node.tag.rpartition(":")[2] not in ("str", "int", "float", "bool", "null", "value"):
            raise self.error(node, f"has the tag {node.tag!r}, which a scenario cannot hold")
        try:
            return self._loader.construct_object(node)
        # PyYAML passes on any exception of Python, as for "!!int x" or an integer of 5,000 digits.
        except Exception as error:
            what = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise self.error(node, f"{node.value[:40]!r} cannot be read ({what})") from None

    def _place(self, at: yaml.Node | yaml.Mark | None) -> Place:
        mark = at.start_mark if isinstance(at, yaml.Node) else at
        return Place(self.origin, mark.line + 1 if mark and self.has_lines else 0)

    def _yaml_error(self, error: yaml.MarkedYAMLError) -> ScenarioError:
        place = self._place(error.problem_mark or error.context_mark)
        if error.context == "expected a single document in the stream":
            return ScenarioError([fault_at(place, "a second document begins here; keep only one")])
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        return ScenarioError([fault_at(place, f"is not valid YAML: {reason}")])
