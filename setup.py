"""What pyproject.toml cannot say: the configs in a wheel, and the links of the long description."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
FILES = "https://github.com/cspdet/cspdet/raw/main"
RELATIVE_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)|(?<=(?:src|ref)=\")(?!\w+:|#)")


class BuildWithConfigs(build_py):
    """Copy the released configs into the package of a wheel."""

    def run(self) -> None:
        """Build, then copy; an editable install reads the folders of the checkout."""
        super().run()
        if self.editable_mode:
            return
        for source in ROOT.glob("configs/**/*.yaml"):
            target = Path(self.build_lib, "cspdet", source.relative_to(ROOT))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


setup(
    cmdclass={"build_py": BuildWithConfigs},
    # README.md links to files of the repository, which a package index does not have.
    long_description=RELATIVE_LINK.sub(f"{FILES}/", (ROOT / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
