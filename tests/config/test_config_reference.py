import json
import re
from pathlib import Path

from sidecar.config import reference
from sidecar.config.load import Loaded, load
from sidecar.config.schema import json_schema
from sidecar.config.shape import document_type, walk_types

ROOT = Path(__file__).parents[2]


def test_the_reference_in_docs_is_the_one_that_the_model_gives():
    assert reference.main(["--check", str(ROOT / "docs" / "configuration.md")]) == 0


def test_an_old_reference_is_noticed_and_can_be_written_again(tmp_path, capsys):
    target = tmp_path / "configuration.md"
    assert reference.main(["--check", str(target)]) == 1
    assert "is not current" in capsys.readouterr().err
    assert reference.main(["--write", str(target)]) == 0
    assert reference.main(["--check", str(target)]) == 0


def test_every_field_is_described():
    for kind in walk_types(document_type()):
        for field in kind.fields:
            assert field.type.extra_json_schema["description"], (kind.cls, field.name)


def test_every_link_of_the_reference_leads_somewhere():
    text = reference.render()
    titles = {title.lower() for title in re.findall(r"^### (.+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([a-z]+)\)", text)) <= titles


def test_the_example_of_the_reference_is_valid():
    example = re.search(r"```yaml\n(.*?)```", reference.render(), re.DOTALL)[1]
    assert isinstance(load(example.encode()), Loaded)


def test_the_schema_knows_every_field_and_no_other():
    schema = json_schema()
    definitions = schema["$defs"]
    for kind in walk_types(document_type()):
        definition = definitions[kind.cls.__name__]
        assert definition["additionalProperties"] is False
        assert set(definition["properties"]) == {field.encode_name for field in kind.fields}
        assert definition["required"] == [field.encode_name for field in kind.fields if field.required]


def test_the_schema_is_json_with_patterns_that_javascript_understands():
    text = json.dumps(json_schema())
    assert "(?!" not in text
    assert json.loads(text)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
