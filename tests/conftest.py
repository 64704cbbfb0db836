"""Settings for all tests."""

from __future__ import annotations

from hypothesis import settings

# Time limits measure the machine, not the code; derandomized runs fail for everybody or for nobody.
settings.register_profile("cspdet", deadline=None, derandomize=True)
settings.load_profile("cspdet")
