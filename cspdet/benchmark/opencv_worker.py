"""Worker process that benchmarks OpenCV. The process needs only OpenCV and NumPy, and does not import cspdet.

Requests on stdin are lines of JSON: {"do": "load", "files": [...], "input": "x.npy", "threads": N} first, then {"do":
"forward", "passes": N} any number of times, and {"do": "memory"}. The response to
each is a line of JSON on stdout.
"""

from __future__ import annotations

import json
import sys
import time

import cv2
import numpy as np


def peak_mib() -> float:
    """Return the peak resident memory of this process in MiB; 0 on Windows, where it is unknown."""
    try:
        # ru_maxrss is inherited from the parent process, VmHWM is not.
        with open("/proc/self/status", encoding="utf-8") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        if sys.platform == "win32":
            return 0.0
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / (1024 if sys.platform == "darwin" else 1)


class OpenCvNetwork:
    """A network that OpenCV loaded from Darknet or ONNX files, with its input images."""

    def __init__(self, files: list[str], input_path: str, threads: int):
        self.libraries_mib = peak_mib()
        cv2.setNumThreads(threads)
        read = "readNetFromDarknet" if files[0].endswith(".cfg") else "readNetFromONNX"  # OpenCV 5 has only the second
        self.net = getattr(cv2.dnn, read)(*files)
        self.images = np.load(input_path)
        self.outputs = self.net.getUnconnectedOutLayersNames()
        self.forward()

    def forward(self) -> float:
        """Run one forward pass and return its time in milliseconds."""
        start = time.perf_counter()
        self.net.setInput(self.images)
        self.net.forward(self.outputs)
        return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Handle requests until stdin is closed."""
    network = None
    for line in sys.stdin:
        message = json.loads(line)
        response: dict[str, object]
        try:
            if message["do"] == "load":
                network = OpenCvNetwork(message["files"], message["input"], message["threads"])
                response = {"opencv": cv2.__version__}
            elif network is None:
                response = {"problems": ["expected a load request first"]}
            elif message["do"] == "forward":
                response = {"ms": [network.forward() for _ in range(message["passes"])]}
            else:
                response = {"peak_mib": peak_mib(), "libraries_mib": network.libraries_mib}
        except (cv2.error, AttributeError) as error:
            reason = " ".join(text.strip() for text in str(error).splitlines() if text.strip())
            response = {"problems": [f"OpenCV {cv2.__version__}: {reason[:300]}"]}
        sys.stdout.write(json.dumps(response) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
