"""Generate the pages of docs/reference that follow from the code; see --help."""

from docs_site import generate

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("reference-pages", module=generate))
