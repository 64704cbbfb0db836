"""What the package is and what it needs. Nothing is compiled."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "([^"]+)"', (ROOT / "cspdet/__init__.py").read_text(encoding="utf-8"), re.M)
assert VERSION is not None, "cspdet/__init__.py holds the version"


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
    name="cspdet",
    version=VERSION.group(1),
    description="Object detectors on Cross Stage Partial networks: train, evaluate and run them.",
    author="cspdet contributors",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["cspdet", "cspdet.*"]),
    package_data={"cspdet": ["py.typed"], "cspdet.reports": ["templates/*"], "": ["*.yaml"]},
    cmdclass={"build_py": BuildWithConfigs},
    install_requires=[
        # torch and torchvision come in pairs and pip finds the pair: an upper bound on one of them breaks it.
        "torch>=2.4",
        "torchvision>=0.19",
        "numpy>=1.26",
        # 4.11 decodes to RGB. Headless, since albumentations needs that, and two builds overwrite each other's files.
        "opencv-python-headless>=4.11",
        "pillow>=10",
        "simplejpeg>=1.7",  # libjpeg-turbo, with its warnings of damaged data, which OpenCV and Pillow drop
        "pycocotools>=2.0.8",
        "albumentations==2.0.8",  # its last release, and MIT; its successor is AGPL
        "tensorboard>=2.14",
        "pydantic>=2.9",
        "pydantic-core>=2.23",
        "ruamel.yaml>=0.18",
        "tqdm>=4.66",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "markupsafe>=2.1",
    ],
    extras_require={
        "analysis": ["hotcoco>=1.3,<2"],  # pycocotools' numbers in a hundredth of its time
        "export": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.2"],
        "openvino": ["openvino>=2025.0", "onnx>=1.17", "onnxscript>=0.2"],
        "video": ["av>=14.2"],  # H.264 that browsers play
        "supervision": ["supervision>=0.31"],  # its annotators and zones; with `trackers`, numbers from frame to frame
        "timm": ["timm>=1.0"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "mypy>=1.14",
            "packaging>=24",
            # every extra has its tests, which compare it with torch, with pycocotools, with timm
            "hotcoco>=1.3,<2",
            "onnx>=1.17",
            "onnxruntime>=1.20",
            "onnxscript>=0.2",
            "openvino>=2025.0",
            "av>=14.2",
            "timm>=1.0",
        ],
    },
    entry_points={"console_scripts": ["cspdet = cspdet.cli.main:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
