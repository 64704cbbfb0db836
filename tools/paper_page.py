"""Generate docs/models/paper.md; see --help."""

from paper import page_command

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("paper-page", module=page_command))
