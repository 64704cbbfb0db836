"""cspdet predict, without installing the console command."""

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("predict"))
