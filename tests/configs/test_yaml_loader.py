"""Every mistake in a YAML file becomes one line that says where it is and what to do."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, model_validator

from warpfleet.configs.loader import MAX_FILE_BYTES, error_at, load
from warpfleet.core.errors import InputError


class _Vantage(BaseModel):
    model_config = ConfigDict(extra="forbid")
    netns: str | None = None


class _Node(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    vantage: _Vantage | None = None


class _Fleet(BaseModel):
    model_config = ConfigDict(extra="forbid")
    version: int
    nodes: list[_Node] = []

    @model_validator(mode="after")
    def _no_twins(self) -> "_Fleet":
        for index, node in enumerate(self.nodes):
            if node.name == "twin":
                raise error_at(("nodes", index, "name"), "no {twins}")
        return self


_BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

_WRONG = {
    "empty": ("# nothing\n", ":1: the file is empty"),
    "unknown key": (
        "version: 1\nnodes:\n- name: a\n  vantag: {}\n",
        ":4: unknown key 'vantag' in nodes[0]; did you mean",
    ),
    "unknown key without a near one": (
        "version: 1\nzzz: 2\n",
        ":2: unknown key 'zzz' at the top level; valid keys are",
    ),
    "unknown key before the missing one": (
        "\nversoin: 1\n",
        ":2: unknown key 'versoin' at the top level; did you mean",
    ),
    "unknown nested key": (
        "version: 1\nnodes: [{name: a,\n vantage: {nets: a}}]",
        ":3: unknown key 'nets' in nodes[0].van",
    ),
    "missing key": ("version: 1\nnodes:\n- {}\n", ":3: missing key 'name' in nodes[0]; add it"),
    "duplicate key": (
        "version: 1\nversion: 2\n",
        ":2: duplicate key 'version' at the top level: it is already on line 1",
    ),
    "merge key": ("version: 1\n<<: {}\n", ":2: unknown key '<<'"),
    "norway": (
        "version: 1\nnodes:\n- name: no\n",
        ":3: nodes[0].name: should be a valid string, and YAML reads this as a",
    ),
    "number for a name": ("version: 1\nnodes: [{name: 7}]", "a number: quote it"),
    "wrong type": ("version: {}\n", ":1: version: should be a valid integer"),
    "list at the top": ("- 1\n", ":1: the file: should be a mapping of keys to values"),
    "rule of the model": ("version: 1\nnodes:\n- name: a\n- name: twin\n", ":4: nodes[1].name: no {twins}"),
    "two errors": ("version: x\nnodes: [{}]\n", " (and 1 more)"),
    "unclosed": ("version: [\n", "not valid YAML"),
    "tab": ("\tversion: 1\n", ":1: not valid YAML"),
    "two documents": ("version: 1\n---\nversion: 2\n", ":2: not valid YAML"),
    "unknown alias": ("version: *x\n", ":1: not valid YAML"),
    "python tag": ("version: !!python/object:os.system 1\n", ":1: not valid YAML"),
    "tag on a mapping": ("version: !thing {}\n", ":1: version: the tag '!thing' is not supported"),
    "impossible date": ("version: 2026-13-45\n", ":1: version: not a valid number or date"),
    "list as a key": ("? [a]\n: 1\n", ":1: a key at the top level is a list"),
    "control character": ("version: 1\n\x01", ":2: a control character"),
    "key with a line break": ('version: 1\n"a\\nb": 2\n', ":2: unknown key 'a b'"),
    "deep nesting": ("[" * 100_000, ":1: nested deeper than 32 levels"),
    "alias in its own anchor": ("version: &a [*a]\n", "an alias stands within its own anchor"),
    "alias bomb": (_BOMB, "values once aliases are expanded"),
}


@pytest.mark.parametrize(("text", "message"), _WRONG.values(), ids=_WRONG.keys())
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load(path, _Fleet)
    line = str(caught.value)
    assert line.startswith(f"{path}:")
    assert message in line
    assert line.isprintable()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"version: 1\n\xff", ":2: not UTF-8 text"), (b" " * (MAX_FILE_BYTES + 1), "larger than")],
)
def test_bytes_that_are_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(path, _Fleet)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "none.yaml", _Fleet)
    with pytest.raises(InputError, match="is a directory"):
        load(tmp_path, _Fleet)


def test_aliases_within_bounds_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("\ufeffversion: 1\nnodes: [{name: a, vantage: &v {netns: x}}, {name: b, vantage: *v}]\n")
    assert load(path, _Fleet).nodes[1].vantage == _Vantage(netns="x")


@given(st.text(max_size=60) | st.text("[]{}:,-&*!|>'\"#%@? \n\t.019aex_", max_size=60))
def test_no_text_gets_past_as_another_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load(path, _Fleet)
    except InputError as error:
        said = str(error)
    else:
        return
    assert said.startswith(f"{path}:")
    assert said.isprintable()
