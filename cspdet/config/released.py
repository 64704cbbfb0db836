"""Released configs: find, list and copy the config files that come with cspdet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cspdet.errors import ConfigError, did_you_mean

PACKAGE = Path(__file__).parents[1]
CONFIG_SUFFIXES = (".yaml", ".yml")
SECTION_FOLDER = "train"  # its files are sections, not whole configs
# Where `prepare-data coco --output data/coco` writes the descriptor; the default of an installed package.
COCO_DESCRIPTOR = "data/coco/coco.yaml"
FILE_REFERENCE = re.compile(r"^(?P<key>\w+): (?P<file>[\w./-]+\.ya?ml)(?=\s|$)", re.MULTILINE)


@dataclass(frozen=True)
class ReleasedConfig:
    """A config file that comes with cspdet.

    Attributes:
        name: Name of the config, such as `csppelee_efm_sam`, `classification/darknet53` or `train/paper`.
        path: The file.
    """

    name: str
    path: Path

    @property
    def is_section(self) -> bool:
        """Whether the file contains only the section `train`, not a whole config."""
        return self.path.parent.name == SECTION_FOLDER

    @property
    def summary(self) -> str:
        """The beginning of the comment at the head of the file, up to the first colon or full stop."""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        comment = " ".join(line.removeprefix("#").strip() for line in lines[: _first_key(lines)])
        return re.split(r"[:.]\s|\.$", comment, maxsplit=1)[0]

    def editable_copy(self) -> str:
        """Return the text of the file, with references to files that are valid in any folder.

        A section file is referenced by its released name, such as `train/paper.yaml`. `data` is set to COCO_DESCRIPTOR.
        """

        def replace(match: re.Match[str]) -> str:
            if match["key"] == "data":
                return f"data: {COCO_DESCRIPTOR}"
            section = (self.path.parent / match["file"]).resolve().relative_to(configs_dir().resolve())
            return f"{match['key']}: {section.as_posix()}"

        return FILE_REFERENCE.sub(replace, self.path.read_text(encoding="utf-8"))


def _first_key(lines: list[str]) -> int:
    return next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))


def is_installed() -> bool:
    """Return whether the configs are inside the package, as in a wheel. In a source checkout, they are at its root."""
    return (PACKAGE / "configs").is_dir()


def configs_dir() -> Path:
    """Return the folder of the released configs, in the installed package or at the root of a source checkout."""
    return PACKAGE / "configs" if is_installed() else PACKAGE.parent / "configs"


def released_configs() -> dict[str, ReleasedConfig]:
    """Return all released configs, including sections, by name; detectors come first."""
    root = configs_dir()
    files = sorted(root.rglob("*.yaml"), key=lambda file: (len(file.relative_to(root).parts), file))
    named = ((file.relative_to(root).with_suffix("").as_posix(), file) for file in files)
    return {name: ReleasedConfig(name, file) for name, file in named}


def get_released(name: str, *, with_sections: bool = False) -> ReleasedConfig:
    """Return the released config with this name.

    Args:
        name: The name without suffix, or `configs/NAME.yaml`.
        with_sections: Whether section files are found too.

    Raises:
        ConfigError: There is no such config; the message suggests a similar name.
    """
    known = {key: config for key, config in released_configs().items() if with_sections or not config.is_section}
    found = known.get(re.sub(r"\.ya?ml$", "", name).removeprefix("configs/"))
    if found is None:
        same_stem = [key for key in known if key.rsplit("/")[-1] == name]
        hint = f" (did you mean {same_stem[0]!r}?)" if same_stem else did_you_mean(name, known)
        raise ConfigError(
            f"{name}: no such file, and no released config of this name{hint}; `cspdet configs` lists them"
        )
    return found


def find_config(name: str | Path) -> Path:
    """Return the path of a config file, given its path or the name of a released config.

    Args:
        name: A path, or the name of a released config: `csppelee_efm_sam`, `classification/darknet53`. An existing file
            has priority. `configs/NAME.yaml`, the path in a source checkout, is accepted in every working directory.

    Returns:
        The path. An absolute path, or a path with suffix .yaml or .yml, is returned even if there is no such file. But
        if `name` is a released name plus suffix, such as `yolov3.yaml`, the file must exist.

    Raises:
        ConfigError: There is neither a file nor a released config of this name.
    """
    path = Path(name)
    if path.is_file() or path.is_absolute():
        return path
    if path.suffix in CONFIG_SUFFIXES:
        released = configs_dir() / path.as_posix().removeprefix("configs/")
        is_released = SECTION_FOLDER not in path.parts and released.is_file()
        if is_released and path.parts[0] != "configs" and not path.exists():
            raise ConfigError(f"{name}: no such file (the released config is {path.with_suffix('').as_posix()!r})")
        return released if is_released and path.parts[0] == "configs" else path
    return get_released(path.as_posix()).path


def find_section(name: str, folder: Path) -> Path:
    """Return the path of a section file: `folder / name`, or the released file `name` if the former does not exist."""
    path, released = folder / name, configs_dir() / name.removeprefix("configs/")
    return released if not path.exists() and released.is_file() else path


def default_data(path: Path) -> str | None:
    """Return the default data descriptor of a released config, relative to the working directory.

    The key `data` of released configs is a path in the source checkout, which an installed package does not have.

    Args:
        path: The config file.

    Returns:
        The descriptor for a released config in an installed package; else None, and `data` of the config applies.
    """
    return COCO_DESCRIPTOR if is_installed() and configs_dir() in path.parents else None


def names_config(name: str | Path) -> bool:
    """Return whether a MODEL argument is a config (YAML file, or name without suffix), not a file with weights."""
    path = Path(name)
    return path.suffix in CONFIG_SUFFIXES or (path.suffix == "" and not path.is_file())


def names_released(name: str | Path) -> bool:
    """Return whether a CONFIG argument is the name of a released config, and no file of this name exists."""
    return not Path(name).exists() and Path(name).as_posix() in released_configs()
