"""Run `cspdet push` without the installed console command."""

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("push"))
