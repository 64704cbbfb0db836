"""Measure speed and memory:  python tools/benchmark.py configs/csppelee_efm_sam.yaml --backend torch,openvino"""

from cspdet.cli.main import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("benchmark"))
