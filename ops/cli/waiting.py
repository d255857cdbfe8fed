"""A command's work, run to its end."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from mia_events.lifecycle import NoTransition
from mia_events.steps import Late, Poison, Transient
from ops.errors import Refused
from storage.postgres.pool import Unavailable

__all__ = ["waiting_for"]

_T = TypeVar("_T")


def waiting_for(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a command's coroutine; what a user can mend is refused in words."""
    try:
        return asyncio.run(work)
    except Unavailable as error:
        raise Refused(str(error), "See `mia status` and `mia logs postgres`.") from error
    except NoTransition as error:
        raise Refused(str(error), "See `mia run list`.") from error
    except (Late, Transient, Poison) as error:
        raise Refused(str(error), "Check models.*.base_url and `mia status`.") from error
    except LookupError as error:
        raise Refused(str(error), "") from error
    except ConnectionError as error:
        raise Refused(str(error), "See `mia status` and `mia logs kafka`.") from error
