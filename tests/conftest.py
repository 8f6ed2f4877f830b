"""What every test shares: hypothesis profiles."""

import os

from hypothesis import settings

# A slow machine is not a failure. CI draws the same examples every time, so that a red run can be repeated.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
