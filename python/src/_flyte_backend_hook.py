"""flytekit imports this module whenever it is imported itself, as an entry point of the group ``flytekit.plugins``.

It stands beside the package because it is for everybody who has the package installed: it must not cost them the import of it.
"""

import os

if os.environ.get("FLYTE_BACKEND_PLUGINS") or os.environ.get("FLYTE_BACKEND_ENDPOINT"):
    from flyte_backend._local_flytekit import install

    install()
