"""The tools an executor may call.

`TOOLS` says what each takes; `run_tool` in `consumers.tools.run` carries out a call, for the
adapter behind `UseTool`.
"""

from consumers.tools.registry import TOOLS, Tool, arguments_of, properties_of

__all__ = ["TOOLS", "Tool", "arguments_of", "properties_of"]
