"""Labels: kept sealed, ledgered as a commitment."""

from uuid import UUID

from tests.contract.workbench import Workbench


async def test_there_is_no_label_until_one_is_sealed(workbench: Workbench) -> None:
    """None before, the value after."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    assert await workbench.labels.label(question) is None
    await workbench.labels.seal(run, question, "Paris", source="file")
    assert "Paris" == await workbench.labels.label(question)


async def test_the_same_label_again_is_one(workbench: Workbench) -> None:
    """A repeated record changes nothing."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    for _ in range(2):
        await workbench.labels.seal(run, question, "Paris", source="file")
    assert "Paris" == await workbench.labels.label(question)


async def test_the_newest_label_wins(workbench: Workbench) -> None:
    """A correction from another source replaces the first."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    await workbench.labels.seal(run, question, "Paris", source="file")
    await workbench.labels.seal(run, question, "Lyon", source="topic")
    assert "Lyon" == await workbench.labels.label(question)


async def test_labels_belong_to_their_question(workbench: Workbench) -> None:
    """Another question has none."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    await workbench.labels.seal(run, question, "Paris", source="file")
    assert await workbench.labels.label(UUID(int=3)) is None
