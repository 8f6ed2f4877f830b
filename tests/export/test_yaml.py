"""The YAML that is written says what it was given, to a reader of YAML 1.1 too."""

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tidemill.export.yaml import dump

texts = st.text(max_size=20) | st.sampled_from(["yes", "No", "1e3", "0x1", "12:30", "2020-01-01", "~", "- a", "a: b"])
scalars = st.none() | st.booleans() | st.integers() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=20
)


@given(st.dictionaries(texts, values, max_size=5))
@example({"a": "line\n\n  more\n", "b": "x\n", "c": "\n", "d": "a\nb", "e": " a\n"})
@example({"a": [[1, [2]], {"b": {}}, []], "on": None})
def test_what_is_written_is_read_back(document):
    assert yaml.safe_load(dump(document)) == document


def test_it_is_written_for_people():
    text = dump({"kind": "Service", "spec": {"ports": [{"name": "http", "port": 80}], "file": "a\nb\n"}}, comment="So.")
    assert text == ("# So.\nkind: Service\nspec:\n  ports:\n  - name: http\n    port: 80\n  file: |\n    a\n    b\n")
