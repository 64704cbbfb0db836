"""Draw training curves:  python tools/plot.py runs/csppelee_efm runs/csppelee_efm-2"""

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("plot"))
