"""`mia question cancel`."""

from uuid import UUID

from cyclopts import App

from ops.cancel import cancel_question
from ops.cli.waiting import waiting_for
from ops.connected import connected
from ops.console import console

__all__ = ["questions"]

questions = App(name="question", help="Act on single questions.")


@questions.command
def cancel(question: UUID, /) -> None:
    """End a question that has no answer yet, whoever is working on it.

    Args:
        question: Its id, as `mia answers` and the topics show it.
    """
    waiting_for(_cancel(question))
    console().print(f"question {question} is cancelled", markup=False)


async def _cancel(question: UUID) -> None:
    async with connected("mia_admit") as at:
        await cancel_question(at.ledger, at.runs, question)
