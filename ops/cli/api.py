"""`mia api`: the HTTP interface in the foreground, over the running stack."""

import asyncio

from ops.api.child import NAME, base_url
from ops.api.config import api_config, token_file
from ops.api.serve import serve
from ops.connect import connections
from ops.connected import home_of
from ops.console import console
from ops.settings import load_settings

__all__ = ["api"]


def api() -> None:
    """Serve the HTTP interface until Ctrl-C. `mia up` does it too when api.enabled is true."""
    settings = load_settings()
    where = connections(settings)
    port, _ = home_of(settings).port(NAME, settings.api.port)
    config = api_config(settings, where, port)
    console().print(f"{base_url(config.host, port)}, token in {token_file(settings)}", markup=False)
    asyncio.run(serve(config))
