"""BM25 over a question's own passages."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.tools.registry import TOOLS, properties_of
from consumers.tools.run import run_tool
from consumers.tools.search import decode_documents, search
from mia_events.effects import UseTool
from mia_events.steps import Poison
from schemas.external import Paragraph
from tests.support.drive import QUESTION

DOCUMENTS = tuple(
    Paragraph(title=title, text=text)
    for title, text in (
        ("Waverley", "Waverley is a novel by Walter Scott, published in 1814."),
        ("Ivanhoe", "Ivanhoe is another novel by Walter Scott."),
        ("Edinburgh", "Edinburgh is the capital of Scotland."),
        ("Glasgow", "Glasgow is the largest city of Scotland."),
        ("Novel", "A novel is a long work of prose."),
    )
)


def test_the_best_passages_come_first_with_their_titles() -> None:
    """At most three, numbered, and their titles are the sources."""
    found = search("who wrote the novel Waverley", DOCUMENTS)
    assert found.ok
    assert found.text.splitlines()[0].startswith("[1] Waverley: Waverley is a novel")
    assert "Waverley" == found.sources[0]
    assert {"Waverley", "Ivanhoe", "Novel"} == set(found.sources)


def test_equal_scores_keep_the_order_of_the_passages() -> None:
    """A tie is broken the same way on every machine."""
    twins = tuple(Paragraph(title=f"T{n}", text="same words here") for n in range(8))
    assert ("T0", "T1", "T2") == search("same words", twins).sources


@pytest.mark.parametrize("query", ["zebra", "the", "?!", " "])
def test_no_match_is_said(query: str) -> None:
    """An empty result is a statement, not an empty text."""
    found = search(query, DOCUMENTS)
    assert ("No document matches. Try other key words.", ()) == (found.text, found.sources)


def test_no_documents_is_said() -> None:
    """A question without passages, where there is no service, has nothing to search: an error."""
    found = search("a novel", ())
    assert not found.ok
    assert found.text.startswith("There is nothing to search")


@settings(max_examples=40)
@given(st.text(), st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_any_query_over_any_passages_gives_a_result(
    query: str, passages: list[tuple[str, str]]
) -> None:
    """Empty passages, strange scripts and stop words only do no harm."""
    documents = [Paragraph(title=title, text=text) for title, text in passages]
    found = search(query, documents)
    assert found.text
    assert set(found.sources) <= {document.title for document in documents}


def test_stored_documents_are_read_back() -> None:
    """They are a JSON array of title and text."""
    assert DOCUMENTS == decode_documents(msgspec.json.encode(DOCUMENTS))


def test_a_tool_runs_by_its_name() -> None:
    """The effect's arguments and the passages are all it needs."""
    request = UseTool(tool="search", arguments={"query": "capital"}, question=QUESTION.id)
    assert ("Edinburgh",) == run_tool(request, DOCUMENTS).sources


def test_an_unknown_tool_is_poison() -> None:
    """The handler has refused it before; the adapter does not guess."""
    with pytest.raises(Poison, match="no tool is called 'browse'; there are: search"):
        run_tool(UseTool(tool="browse", arguments={}, question=QUESTION.id), DOCUMENTS)


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_every_argument_has_a_bounded_schema(name: str) -> None:
    """Text in a grammar without a bound lets a small model ramble."""
    properties = properties_of(name)
    assert set(properties) == set(TOOLS[name].arguments.__struct_fields__)
    assert all(
        "maxLength" in property_
        for property_ in properties.values()
        if property_["type"] == "string"
    )
