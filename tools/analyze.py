"""Analyze detection errors:  python tools/analyze.py runs/csppelee_efm_sam"""

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("analyze"))
