"""Generate the network drawings of the documentation; see --help."""

from paper import drawings_command

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("draw-networks", module=drawings_command))
